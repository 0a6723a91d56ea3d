"""What is asked: the experiment as frozen records, its file, its lock."""

"""The experiment in memory: geometry, answers, teaching, measuring. No files, no units."""

"""How fast: ours against named peers, the same work, in one process."""

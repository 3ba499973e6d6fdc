"""`python -m workers.vision` as a process, over real servers."""

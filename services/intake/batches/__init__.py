"""Batches of files: their lines are checked, become jobs as there is room in the queue, and their answers a file."""

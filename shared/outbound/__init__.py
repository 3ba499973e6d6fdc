"""Calls to addresses that clients name: which are permitted, and connections that lead nowhere else."""

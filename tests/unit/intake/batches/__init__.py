"""Batches of files."""

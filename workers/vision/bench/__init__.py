"""Measures the engines on the machine that runs them: `tileq bench`."""

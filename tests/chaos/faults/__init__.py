"""The faults. Each is a function of the run; it names its target, lasts a while, heals, and gives evidence that it was.

Numbers in docstrings are those of the catalogue of fault injections that the harness was written after.
"""

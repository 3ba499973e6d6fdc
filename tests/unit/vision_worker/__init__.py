"""The way of a job through the vision worker, over the in-process doubles."""

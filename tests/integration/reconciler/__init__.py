"""The reconciler as a process, against real servers."""

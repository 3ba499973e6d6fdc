"""What is wrong with a checkpoint."""


class CheckpointError(Exception):
    """The checkpoint can't be served; the message names the file and the field, and the way out where there is one."""

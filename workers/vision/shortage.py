"""Recognises a shortage of the worker's machine among the errors of a job: named and retried, never `internal`."""

import errno

from shared.errors import Transient

#: What the machine is out of, by the number of an OSError (errno(3)).
_RESOURCES = {
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads",
    errno.EMFILE: "file descriptors of this process",
    errno.ENFILE: "file descriptors",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk quota",
}
_NO_THREAD = "can't start new thread"  # of CPython's RuntimeError; the number behind it is lost


def shortage_of(error: Exception) -> Transient | None:
    """Return the transient error that `error` means, or None if it is not a shortage."""
    if isinstance(error, MemoryError):
        return _transient("memory", error)
    if isinstance(error, OSError) and error.errno in _RESOURCES:
        return _transient(_RESOURCES[error.errno], error)
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return _transient("processes or threads", error)
    return None


def _transient(resource: str, error: Exception) -> Transient:
    code = "out_of_memory" if resource == "memory" else "worker_lost"
    found = Transient(code, f"the machine of this worker ran out of {resource}; submit the job again later")
    found.__cause__ = error
    return found

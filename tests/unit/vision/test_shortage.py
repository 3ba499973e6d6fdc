"""A shortage of the machine is distinguished from errors of a job."""

import errno

import pytest

from workers.vision.shortage import shortage_of


@pytest.mark.parametrize(
    ("error", "code", "names"),
    [
        (MemoryError(), "out_of_memory", "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "worker_lost", "disk space"),
        (OSError(errno.EMFILE, "Too many open files"), "worker_lost", "file descriptors"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "worker_lost", "threads"),
        (RuntimeError("can't start new thread"), "worker_lost", "threads"),
    ],
)
def test_a_shortage_is_named_and_transient(error: Exception, code: str, names: str) -> None:
    found = shortage_of(error)
    assert found is not None
    assert (found.code, found.__cause__) == (code, error)
    assert names in found.detail


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), FileNotFoundError(errno.ENOENT, "no such file")])
def test_any_other_error_is_none(error: Exception) -> None:
    assert shortage_of(error) is None

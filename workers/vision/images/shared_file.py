"""Files without a name that two processes share: in memory where there is room, else in the temporary folder.

An anonymous file in memory (memfd_create(2)) is not bound by the size of /dev/shm, which container runtimes set to
64 MB. All of a file is allocated when it is made: a process that touches a page for which there is no room is killed
by SIGBUS, while an allocation fails with an error.
"""

import os
import tempfile
from collections.abc import Callable


def allocate(size: int) -> int:
    """Return the descriptor of a new file of `size` bytes. Raises `OSError` if there is room for it nowhere."""
    try:
        return _allocated(_make_in_memory, size)
    except OSError as in_memory:
        try:
            return _allocated(_make_in_temporary_folder, size)
        except OSError as error:
            place = tempfile.gettempdir()
            message = f"no room for {size} bytes in memory ({in_memory.strerror}) nor in {place} ({error.strerror})"
            raise OSError(error.errno, message) from error


def _allocated(make: Callable[[], int], size: int) -> int:
    descriptor = make()
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _make_in_memory() -> int:
    return os.memfd_create("tileq-image")


def _make_in_temporary_folder() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

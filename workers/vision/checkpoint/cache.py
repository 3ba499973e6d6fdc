"""The cache of fetched checkpoints, which workers may share: its lock, and what may be in it."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Only these files of a repository or prefix are ever fetched: no code, no pickle.
FETCHED_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "*.safetensors",
    "*.index.json",
)
MAX_HASHING_THREADS = 8

Report = Callable[[str], None]  #: called with a line for people


def default_cache() -> Path:
    """Return the folder in which fetched models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tileq" / "models"


def is_fetched(name: str) -> bool:
    """Return whether a file of this name belongs to a checkpoint."""
    return any(fnmatch(name, pattern) for pattern in FETCHED_PATTERNS)


def select_parallel(items: Sequence[T], predicate: Callable[[T], bool]) -> list[T]:
    """Return the items for which `predicate`, which hashes a file, is true; several files at once."""
    threads = min(MAX_HASHING_THREADS, os.cpu_count() or 1, max(1, len(items)))
    with ThreadPoolExecutor(threads, "checksums") as pool:
        return [item for item, chosen in zip(items, pool.map(predicate, items), strict=True) if chosen]


@contextmanager
def cache_lock(path: Path, *, exclusive: bool, report: Report) -> Iterator[bool]:
    """Hold the lock of the file `path`, which is made; the kernel releases it when its holder dies.

    Workers hold it shared to check files, exclusive to change them. Gives False where no lock can be had (a read-only
    cache, a file system without locks): files that others may be writing must then be left alone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError:
        yield False
        return
    with file:
        yield _lock(file.fileno(), fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, report)


def _lock(descriptor: int, kind: int, report: Report) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        report("waiting for another worker that fetches or checks this model")
        fcntl.flock(descriptor, kind)
    except OSError:
        return False
    return True

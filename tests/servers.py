"""Real servers for tests, each started once per session; a missing wheel skips here and fails in CI.

def test_store(valkey_url: str, prefix: str) -> None: ...   # every key of the test starts with `prefix`
def test_objects(s3: S3) -> None: ...                       # s3.url, s3.access_key, s3.secret_key, s3.bucket
"""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3, seaweed
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey

T = TypeVar("T")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Valkey with AOF; use it together with `prefix`."""
    folder = tmp_path_factory.mktemp("valkey")
    (port,) = free_ports(1)
    program = needed(lambda: valkey(folder / "data", port))
    with supervised(folder, [[program]]):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def prefix(valkey_url: str) -> Iterator[str]:
    """A key prefix of this test's own; its keys are removed afterwards."""
    own = f"t{secrets.token_hex(4)}:"
    yield own
    with redis.Redis.from_url(valkey_url) as client:
        for keys in iter(lambda: list(client.scan_iter(match=f"{own}*", count=1000)), []):
            client.delete(*keys)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server with one bucket; name your objects apart from those of other tests."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    program, server = needed(lambda: seaweed(folder / "data", "tileq-test"))
    program = replace(program, stuck=lambda: "")  # or a thread of this process would connect within any test
    with supervised(folder, [[program]]):
        yield server


def needed(make: Callable[[], T]) -> T:
    """Return what `make` returns; where its wheel is not installed, skip with the reason, in CI fail."""
    try:
        return make()
    except (ImportError, FileNotFoundError) as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing} (pip install '.[local]')")


def log_of(folder: Path, name: str) -> str:
    """Return the log of the supervised process `name` of `folder`, for a message."""
    return (folder / "logs" / f"{name}.log").read_text(errors="replace")

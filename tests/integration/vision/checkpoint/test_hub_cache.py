"""Checkpoints of the hub are verified by the hash that the hub names them by."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.vision.checkpoint.hub_server import Hub, serve_hub
from tests.random_checkpoint import write_random

PROGRAM = """
import sys
from pathlib import Path
from workers.vision.checkpoint.fetch import locate
from workers.vision.checkpoint.fields import CheckpointError
try:
    print(locate("org/name@main", None, Path(sys.argv[1]), lambda line: print(line, flush=True)))
except CheckpointError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = write_random(tmp_path / "made")
    with serve_hub({path.name: path.read_bytes() for path in made.iterdir()}) as served:
        served.files["modeling.py"] = b"raise SystemExit"
        yield served


def start(hub: Hub, tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    """Begin to locate the model in a process of its own: the hub's client reads its address when it is imported."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "cache")],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def locate(hub: Hub, tmp_path: Path, **environment: str) -> tuple[Path, str]:
    """The folder, and everything that was reported."""
    process = start(hub, tmp_path, **environment)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return Path(said.splitlines()[-1]), said


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wanted(hub: Hub) -> dict[str, bytes]:
    return {name: data for name, data in hub.files.items() if name != "modeling.py"}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.resolve().write_bytes(data)


def test_two_processes_on_an_empty_cache_have_the_same_whole_files(hub: Hub, tmp_path: Path) -> None:
    workers = [start(hub, tmp_path) for _ in range(2)]
    said = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    for out, _ in said:
        assert content(Path(out.splitlines()[-1])) == wanted(hub)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_found_and_fetched_again(hub: Hub, tmp_path: Path, name: str) -> None:
    folder, _ = locate(hub, tmp_path)
    damage(folder / name)
    hub.downloads.clear()
    again, said = locate(hub, tmp_path)
    assert content(again) == wanted(hub)
    assert hub.downloads == [name]
    assert f"the cached {name} is damaged" in said


def test_a_damaged_file_is_not_served_while_the_hub_is_away(hub: Hub, tmp_path: Path) -> None:
    folder, _ = locate(hub, tmp_path)
    assert content(locate(hub, tmp_path, HF_HUB_OFFLINE="1")[0]) == wanted(hub)
    damage(folder / "model.safetensors")
    process = start(hub, tmp_path, HF_HUB_OFFLINE="1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "model.safetensors" in errors
    assert "HF_HUB_OFFLINE" in errors


def test_a_hub_that_sends_other_bytes_than_it_announces_is_refused(hub: Hub, tmp_path: Path) -> None:
    locate(hub, tmp_path)
    announced = hub.etag("config.json")
    data = hub.files["config.json"]
    count = 0

    def other_bytes(name: str) -> str:
        nonlocal count
        if name == "config.json":
            count += 1
            hub.files[name] = data.replace(b"tileq", b"qel%02d" % (count % 100))
            return announced
        return Hub.etag(hub, name)

    hub.etag = other_bytes  # type: ignore[method-assign]
    damage(next((tmp_path / "hf").rglob("config.json")))
    process = start(hub, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "does not have the hash that the hub announces" in errors

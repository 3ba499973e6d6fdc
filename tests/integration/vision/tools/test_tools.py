"""`inspect`, `render` and `bench` as they are run, in processes of their own."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.encoded import encoded
from tests.integration.vision import cases, own
from tests.random_checkpoint import write_random


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "tileq-demo")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "street.png"
    path.write_bytes(encoded(Image.fromarray(own.drawn(640, 480))))
    return path


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"workers.vision.tools.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_inspect_tells_what_the_files_hold(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit")
    done = run("inspect", str(folder), "--manifest")
    assert done.returncode == 0, done.stderr
    for part in (
        "tileq-demo",
        "internlm2-chat",
        "196",
        "F32",
        "patches of 16",
        "modeling.py: code",
        "by the name tileq-demo",
        "all of it",
    ):
        assert part in done.stdout


def test_inspect_says_what_is_wrong(tmp_path: Path) -> None:
    done = run("inspect", str(tmp_path))
    assert done.returncode == 1
    assert "config.json: not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_render_draws_the_grid_and_the_thumbnail(street: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    done = run("render", str(street), "--tiles", "6", "-o", str(target))
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(io.BytesIO(target.read_bytes())))
    with cases.decoder_pool() as decoders:
        tiled = decoders.tile(street.read_bytes(), 6, thumbnail=True)
    assert tiled.grid == (3, 2)
    assert drawn.shape == (2 * 456 - 8, 4 * 456, 3)
    assert (drawn[456:904, 912:1360] == tiled.tiles[5]).all()
    assert (drawn[:448, 1376:] == tiled.tiles[6]).all()


def test_render_prints_the_prompt_with_its_blocks_folded(folder: Path, street: Path) -> None:
    done = run("render", str(street), "--tiles", "6", "--model", str(folder), "--prompt", "What is it?")
    assert done.returncode == 0, done.stderr
    assert "user\n<img>…196 x 7…</img>\nWhat is it?<|im_end|><|im_start|>assistant\n" in done.stdout
    assert f"{7 * 196} of them for 7 tiles" in done.stdout


def test_render_says_what_is_wrong(tmp_path: Path) -> None:
    done = run("render", str(tmp_path / "absent.png"), "-o", str(tmp_path / "out.png"))
    assert done.returncode == 1
    assert "absent.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_bench_measures_both_engines_on_a_cpu_in_seconds() -> None:
    done = run("bench", "--device", "cpu", "--small", "--dtype", "float32", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["device"].startswith("CPU, ")
    assert found["machine"]["model"] == "random weights, toy shapes"
    names = [figure["name"] for figure in found["figures"]]
    for name in ("3 jobs of 1 tile, 4 tokens each", "one job of 2 tiles, decoding", "latency beside it, of 2 tiles"):
        assert name in names
    assert all(figure["value"] > 0 and figure["met"] is None for figure in found["figures"])


def test_bench_measures_a_checkpoint_and_prints_a_table(folder: Path) -> None:
    done = run("bench", "--device", "cpu", "--small", "--model", str(folder), "--baseline-jobs", "0", "--tiles", "1")
    assert done.returncode == 0, done.stderr
    assert "3 jobs of 1 tile, 4 tokens each" in done.stdout
    assert str(folder) in done.stdout


def test_bench_says_in_one_line_that_there_is_no_gpu() -> None:
    done = run("bench", "--device", "cuda:99")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the device is to be cuda:99" in line
    assert not done.stdout

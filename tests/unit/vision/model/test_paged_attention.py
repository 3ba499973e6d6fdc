"""The Triton kernel computes what plain torch does, by Triton's interpreter, and compilers for GPUs take it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.packaging.tree import ROOT
from workers.vision.model.fast_path import TOLERANCES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: its wheels are for Linux only"
)
MAX_SHARED_BYTES = 99 * 1024  #: of one program on the smallest GPUs of capability 8.x


def run(mode: str, cache: Path) -> Any:
    environment = os.environ | {"TRITON_INTERPRET": str(int(mode == "interpret")), "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.unit.vision.model.kernel_process", mode]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_plain_attention_for_every_shape_of_the_family_and_reads_nothing_behind_a_context(tmp_path: Path) -> None:
    found = run("interpret", tmp_path)
    parts = found.pop("parts")
    tolerances = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    known = {str(dtype).removeprefix("torch."): most for dtype, most in TOLERANCES.items()}
    assert found.keys() == tolerances.keys()
    for dtype, deviations in found.items():
        assert len(deviations) == 5
        assert not {shape: off for shape, off in deviations.items() if not off < known[tolerances[dtype]]}, dtype
    # A few rows split their contexts, so that they fill a device; many do not.
    assert parts == {"8, 200": 4, "8, 10496": 32, "512, 200": 1, "512, 10496": 1}


def test_the_compiler_of_a_gpu_takes_it(tmp_path: Path) -> None:
    """What the interpreter accepts a compiler may refuse. Compiling needs no GPU."""
    shared = run("compile", tmp_path)
    assert len(shared) == 3
    assert max(shared.values()) <= MAX_SHARED_BYTES

"""The Makefile names commands that exist; its environment is made from the right Python and made once."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.packaging.tree import ROOT

TARGETS = (
    "demo",
    "test",
    "chaos",
    "mutants",
    "fuzz",
    "lint",
    "audit",
    "bench",
    "bench-accept",
    "bench-growth",
    "bench-bodies",
    "bench-idle",
    "bench-store",
    "bench-peers",
    "bench-gateway",
    "load",
    "parity",
    "evaluate",
    "constraints",
    "clean",
    "help",
)


def make(*arguments: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Call make, untouched by a make that runs these tests."""
    return subprocess.run(
        ["make", "-C", str(folder), "--no-print-directory", *arguments],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that make finds everything in but an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def python(folder: Path, script: str) -> str:
    """Something that passes for a Python."""
    path = folder / "python-like"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_help_names_every_target() -> None:
    said = make("help").stdout
    assert all(f"make {target} " in said for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_modules_and_folders_that_exist(target: str) -> None:
    run = make("--dry-run", "--always-make", target)
    assert run.returncode == 0, run.stderr
    for module in re.findall(r"-m ((?:tests|infra|services|workers)[\w.]+)", run.stdout):
        assert importlib.util.find_spec(module), module
    assert all((ROOT / name).exists() for name in re.findall(r" (tests/\w+)", run.stdout))


def test_without_python_it_says_how_to_name_one(clone: Path) -> None:
    run = make("env", "PYTHON=no-such-python", folder=clone)
    assert run.returncode != 0
    assert "make PYTHON=" in run.stderr


def test_an_old_python_is_refused_by_name(clone: Path) -> None:
    run = make("env", python(clone, "exit 1"), folder=clone)
    assert "needs Python 3.11 or newer" in run.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_is_told_what_to_install(clone: Path) -> None:
    run = make("env", python(clone, 'case "$*" in *venv*) exit 1;; esac'), folder=clone)
    assert run.returncode != 0
    assert "apt install python3-venv" in run.stderr
    assert not (clone / ".venv").exists()


def test_an_environment_is_made_once_and_again_when_its_pins_change(clone: Path) -> None:
    fake = 'case "$*" in *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;; *install*) echo installs;; esac'
    assert make("env", python(clone, fake), folder=clone).stdout.count("installs") >= 1
    assert "installs" not in make("env", folder=clone).stdout
    stamp = clone / ".venv/.made"
    for name in ("pyproject.toml", "constraints.txt"):
        later = stamp.stat().st_mtime + 10
        os.utime(clone / name, (later, later))
        assert "installs" in make("env", folder=clone).stdout
        assert make("env", folder=clone).returncode == 0
        os.utime(clone / name, (0, 0))

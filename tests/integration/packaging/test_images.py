"""What an image installs, installed: the Dockerfile's own steps for it, in a folder instead of a container."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.packaging.dockerfile import Instruction, stages, whole
from tests.unit.packaging.tree import ROOT, files

STAGES = stages((ROOT / "infra/docker/Dockerfile").read_text())
HEAVY = {"torch", "transformers", "safetensors", "numpy"}

#: Run by the image's Python: what is installed, and that every module of these packages imports.
LOOK = """
import importlib, json, pkgutil, sys
from importlib.metadata import distributions
modules = []
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    modules += [name, *(found.name for found in pkgutil.walk_packages(package.__path__, name + "."))]
for name in modules:
    importlib.import_module(name)
print(json.dumps({
    "installed": [found.metadata["Name"].lower().replace("_", "-") for found in distributions()],
    "top": [name for name in ("services", "workers", "shared") if importlib.util.find_spec(name)],
    "modules": modules,
    "loaded": sorted(name for name in sys.modules if "." not in name),
}))
"""

Install = Callable[[str], Path]


def lay(instruction: Instruction, source: Path) -> None:
    """Do a COPY, of what git would commit."""
    *paths, target = instruction.argv
    for path in paths:
        place = source / target / (Path(path).name if target.endswith("/") else "") if target != path else source / path
        for name in files():
            if str(name) == path or str(name).startswith(f"{path}/"):
                there = place / name.relative_to(path)
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, there)


def packages(sbom: Path) -> set[str]:
    """Names in an image's list of packages."""
    return {component["name"] for component in json.loads(sbom.read_text())["components"]}


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Go through a build stage; return its Python."""

    def through(stage: str) -> Path:
        source, environment = tmp_path / "src", tmp_path / "opt"
        source.mkdir()
        (source / "README.md").touch()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        python = environment / "bin/python"
        # pip of this Python, told to work on that one: making a venv with a pip of its own takes seconds
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        variables = os.environ | {
            "PIP_CONSTRAINT": str(source / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",  # a third of the time
        }
        for instruction in whole(stage, STAGES):
            if instruction.word == "COPY":
                lay(instruction, source)
            elif instruction.word == "RUN":
                for argv in map(shlex.split, instruction.rest.split("&&")):
                    if argv[:2] == ["pip", "install"]:
                        words = [word for word in argv[1:] if not word.startswith("$")]
                        given = shlex.split(os.environ.get("PIP_FLAGS", ""))
                        subprocess.run([*pip, *words, "--quiet", *given], cwd=source, env=variables, check=True)
                    elif argv[0] == "/opt/sbom/bin/cyclonedx-py":
                        own = str(Path(sys.executable).with_name("cyclonedx-py"))
                        words = [word.replace("/opt/tileq", str(environment)) for word in argv[1:]]
                        subprocess.run([own, *words], check=True, capture_output=True)
        assert "tileq" in packages(environment / "sbom.cdx.json")
        return python

    return through


def look(python: Path, *packages: str) -> dict[str, list[str]]:
    """What the installed environment says of itself, from a folder that holds nothing of ours."""
    run = subprocess.run(
        [python, "-I", "-c", LOOK, *packages], cwd=python.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


@pytest.mark.integration
def test_the_intake_image_has_no_torch_and_all_its_modules_import(install: Install) -> None:
    python = install("build-intake")
    seen = look(python, "services", "shared")
    assert {"services.intake.__main__", "services.cli.main", "shared.store"} <= set(seen["modules"])
    assert not HEAVY & set(seen["installed"])
    assert not HEAVY & set(seen["loaded"])
    assert seen["top"] == ["services", "shared"]
    subprocess.run(
        [python.parent / "tileq", "keys", "create", "--help"], check=True
    )  # env.example says to call it there


@pytest.mark.integration
def test_the_light_image_has_neither_torch_nor_http_and_both_its_processes_import(install: Install) -> None:
    seen = look(install("build-light"), "workers")
    assert {"workers.webhooks.__main__", "workers.reconciler.__main__"} <= set(seen["modules"])
    assert not (HEAVY | {"fastapi", "uvicorn", "pillow"}) & set(seen["installed"])
    assert seen["top"] == ["workers", "shared"]

"""The Dockerfile names nothing that is not there, and its images hold what their processes may import."""

import shlex
import tomllib
from fnmatch import fnmatch

import pytest

from tests.unit.packaging.dockerfile import last, stages, variables, whole
from tests.unit.packaging.tree import ROOT, files

STAGES = stages((ROOT / "infra/docker/Dockerfile").read_text())
IMAGES = ("intake", "batches", "reconciler", "webhooks", "vision-cpu", "vision-gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Stage that installs, the extra it installs, and what of ours it copies.
INSTALLED = {
    "build-intake": ("intake,heif", {"shared", "services"}),
    "build-light": ("webhooks", {"shared", "workers/__init__.py", "workers/reconciler", "workers/webhooks"}),
    "build-vision": ("vision,heif", {"shared", "workers/__init__.py", "workers/vision"}),
}


def copied(stage: str) -> list[str]:
    """What the stage itself takes from the build's context."""
    found = [i.argv[:-1] for i in STAGES[stage].own if i.word == "COPY" and not i.rest.startswith("--from")]
    return [source for sources in found for source in sources]


def test_every_copied_path_is_in_the_tree_and_in_the_context() -> None:
    sources = [source for stage in STAGES for source in copied(stage)]
    assert sources
    ignore = (ROOT / ".dockerignore").read_text().split()
    assert ignore[0] == "*", "the context is what is named, so no .env and no .git is ever sent"
    let_in = [pattern.removeprefix("!") for pattern in ignore if pattern.startswith("!")]
    for source in sources:
        assert [name for name in files() if str(name) == source or str(name).startswith(f"{source}/")], source
        assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in let_in), source


@pytest.mark.parametrize(("stage", "extra", "ours"), [(stage, *rest) for stage, rest in INSTALLED.items()])
def test_an_image_holds_what_its_process_may_import(stage: str, extra: str, ours: set[str]) -> None:
    commands = [i.rest for i in STAGES[stage].own if i.word == "RUN"]
    pip = [shlex.split(part) for rest in commands for part in rest.split("&&") if part.strip().startswith("pip")]
    assert [argv[-1] for argv in pip] == [f".[{extra}]", "."]
    assert commands[-1].endswith("--output-file /opt/tileq/sbom.cdx.json"), "the list of packages comes after the last"
    assert set(extra.split(",")) <= PROJECT["optional-dependencies"].keys()
    assert set(copied(stage)) == ours


def test_torch_is_in_the_vision_images_only() -> None:
    bringing = {name for name, wanted in PROJECT["optional-dependencies"].items() if "torch" in str(wanted)}
    assert bringing == {"vision"}
    users = {name for name in IMAGES if any("build-vision" in i.rest for i in whole(name, STAGES))}
    assert users == {"vision-cpu", "vision-gpu"}


def test_versions_are_those_of_the_constraints() -> None:
    assert variables("build", STAGES)["PIP_CONSTRAINT"] == "/src/constraints.txt"
    assert "constraints.txt" in copied("build")
    outer = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert outer == {"python:3.11.14-slim-bookworm", "python:3.11.14-bookworm"}  # the second has a compiler


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_in_particular(name: str) -> None:
    assert last("USER", name, STAGES).rest == "10001:10001"
    assert last("HEALTHCHECK", name, STAGES).argv[1] == "/opt/healthy.py"
    assert not any("build-essential" in i.rest or "apt-get" in i.rest for i in whole(name, STAGES))

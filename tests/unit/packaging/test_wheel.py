"""The wheel holds the three packages, every data file of theirs, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.unit.packaging.tree import PACKAGES, ROOT, files


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What lies in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("tileq-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_its_top_level_names_are_the_three_packages(names: set[str]) -> None:
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_it_holds_every_file_of_theirs(names: set[str]) -> None:
    ours = {str(name) for name in files() if name.parts[0] in PACKAGES}
    assert {name for name in names if ".dist-info/" not in name} == ours


@pytest.mark.parametrize(
    "data",
    [
        "shared/store/lua/*.lua",
        "services/cli/images/*.jpg",
        "services/cli/images/*.json",
        "workers/vision/demo/*.safetensors",
    ],
)
def test_its_data_files_are_there(data: str, names: set[str]) -> None:
    assert any(Path(name).match(data) for name in names)

"""`make` installs what was tested: everything the project needs is pinned, and its ranges agree with the pins."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.packaging.tree import ROOT

LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS: dict[str, str] = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(requirement: Requirement, seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """Names that `requirement` brings, with the extras walked of each; read from what is installed here."""
    name = canonicalize_name(requirement.name)
    extras = {"", *requirement.extras}
    if extras <= seen.get(name, set()):
        return seen
    seen[name] = seen.get(name, set()) | extras
    try:
        lines = requires(name) or ()
    except PackageNotFoundError:  # it is named, and the test says so
        lines = ()
    for line in lines:
        further = Requirement(line)
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
            needed(further, seen)
    return seen


def test_every_line_is_one_exact_public_version() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert PINS["torch"] == "2.13.0", "a local version (+cpu) would not be found elsewhere"


def test_everything_that_an_install_brings_is_pinned() -> None:
    names = set(needed(Requirement("tileq[dev]"), {})) - {"tileq"}
    cuda = {name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))}  # torch pins these itself
    assert names - cuda - {"setuptools", "pip"} <= set(PINS)  # every environment has these
    assert len(names) > 50


def test_the_ranges_admit_the_pins() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name, wanted in extras.items() if name != "quant" for line in wanted)]
    ranges = [Requirement(line) for line in lines if not line.startswith("tileq[")]
    assert not [str(one) for one in ranges if not one.specifier.contains(PINS[canonicalize_name(one.name)])]
    assert not [str(one) for one in ranges if "==" in str(one.specifier) or not str(one.specifier)], "honest ranges"

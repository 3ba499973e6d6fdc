"""The tree keeps the shape that was given to it."""

import ast
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.unit.packaging.tree import PACKAGES, ROOT, files

GIVEN = {"pyproject.toml", "services", "workers", "shared", "tests", "infra", "docker-compose.yml", "README.md"}
USUAL = {"LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "docs"}
PYTHON = [name for name in files() if name.suffix == ".py"]


def test_the_first_level_holds_what_was_given_and_what_is_usual() -> None:
    first = {name.parts[0] for name in files()}
    assert first >= GIVEN
    assert not {name for name in first - GIVEN - USUAL if not name.startswith(".")}


def test_every_folder_of_python_files_is_a_package() -> None:
    folders = {parent for name in PYTHON for parent in name.parents if parent != Path()}
    assert not sorted(str(folder) for folder in folders if folder / "__init__.py" not in PYTHON)


@pytest.mark.parametrize("name", [name for name in PYTHON if name.name == "__init__.py"], ids=str)
def test_a_package_s_init_holds_a_docstring_at_most(name: Path) -> None:
    body = ast.parse((ROOT / name).read_text()).body
    assert [type(node) for node in body] in ([], [ast.Expr])


def test_nothing_touches_the_search_path() -> None:
    surgery = re.compile(r"\bsys\.path\b|\bPYTHON[P]ATH\b|\baddsitedir\b")
    texts = [name for name in files() if name.suffix in {".py", ".toml", ".yml", ".yaml", ".sh"} or not name.suffix]
    guilty = [name for name in texts if surgery.search((ROOT / name).read_text(errors="ignore"))]
    assert not guilty


def test_a_celery_app_is_made_in_one_place() -> None:
    made = [
        str(name)
        for name in PYTHON
        if name.parts[0] in PACKAGES
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Celery", "celery.Celery"}
    ]
    assert made == ["shared/broker.py"]


def test_every_import_follows_a_drawn_arrow() -> None:
    linter = Path(sysconfig.get_path("scripts"), "lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout

"""docker-compose.yml as `docker compose config` would show it: variables filled in, anchors resolved."""

import re
from typing import Any

import yaml

from tests.unit.packaging.tree import ROOT

FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "infra/docker/env.example"
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^{}]*))?\}")  #: the innermost where one holds another


class RequiredVariableError(Exception):
    """A variable with `:?` is unset or empty; names it."""


def example() -> dict[str, str]:
    """What env.example says, empty values included."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled() -> dict[str, str]:
    """The example as a user fills it in."""
    secrets = {
        "TILEQ_API_KEYS": "backend=tq_" + "0" * 40,
        "VALKEY_PASSWORD": "v" * 40,
        "TILEQ_S3_ACCESS_KEY": "a" * 20,
        "TILEQ_S3_SECRET_KEY": "s" * 40,
    }
    return example() | secrets


def named() -> set[str]:
    """Every variable that the file asks for."""
    return set(re.findall(r"(?<!\$)\$\{(\w+)", re.sub(r"(^|\s)#.*$", "", FILE.read_text(), flags=re.MULTILINE)))


def compose(variables: dict[str, str]) -> dict[str, Any]:
    """The file with `variables` filled in. Raises `RequiredVariableError`."""

    def fill(found: re.Match[str]) -> str:
        name, kind, other = found.groups()
        if value := variables.get(name):
            return value
        if kind == "?":
            raise RequiredVariableError(name)
        return other or ""

    # Comments go first: a variable in one is not asked for.
    text = re.sub(r"(^|\s)#.*$", "", FILE.read_text(), flags=re.MULTILINE)
    while _VARIABLE.search(text):
        text = _VARIABLE.sub(fill, text)
    loaded = yaml.safe_load(text.replace("$$", "$"))
    return {key: value for key, value in loaded.items() if not key.startswith("x-")}

"""The README tells what the code does."""

import re

from infra.readme import GROUPS, README, rewrite
from shared.settings import Settings
from tests.unit.intake.rooms import room


def test_the_configuration_table_is_that_of_the_settings_class() -> None:
    text = README.read_text()
    assert rewrite(text) == text, "run `python -m infra.readme`"


def test_every_group_begins_with_a_setting() -> None:
    assert set(GROUPS) <= set(Settings.model_fields)


def test_every_path_the_readme_names_is_served() -> None:
    section = README.read_text().split("## The API\n")[1].split("\n## ")[0]
    named = re.findall(r"`(?:[A-Z]+ )?…?(/[a-z0-9_./{}]+)(?:\?[^`]*)?`", section)
    with room() as intake:
        served = [_any_name(path) for path in (*intake.http.get("/openapi.json").json()["paths"], "/openapi.json")]
    unknown = [path for path in named if not any(known.endswith(_any_name(path)) for known in served)]
    assert "/openapi.json" in named
    assert unknown == [], "the README names paths that intake does not serve"


def _any_name(path: str) -> str:
    """Make one of all names a path's variables may have."""
    return re.sub(r"\{[^}]*\}", "{}", path)

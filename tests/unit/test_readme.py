"""The README tells what the code does."""

from infra.readme import GROUPS, README, rewrite
from shared.settings import Settings


def test_the_configuration_table_is_that_of_the_settings_class() -> None:
    text = README.read_text()
    assert rewrite(text) == text, "run `python -m infra.readme`"


def test_every_group_begins_with_a_setting() -> None:
    assert set(GROUPS) <= set(Settings.model_fields)

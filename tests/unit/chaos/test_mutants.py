"""Every mutant still applies: the place that it changes is in the tree, once, and its tests are there."""

import pytest

from tests.chaos.mutants import MUTANTS, ROOT, Mutant, changed


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert changed(text, mutant) != text
    assert all((ROOT / path).exists() for path in mutant.tests)


def test_a_place_that_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 times, not once"):
        changed("", MUTANTS[0])

"""One hint is enough for a queue that is not empty, in every order of events."""

import pytest

from tests.integration.shared.model import hints


@pytest.mark.parametrize("hinted_below", [1, 2, 8])
def test_no_order_of_events_leaves_a_job_without_a_hint(hinted_below: int) -> None:
    states = hints.reachable(7, hand_on=True, hinted_below=hinted_below)
    assert len(states) > 100
    assert not [state for state in states if state.stalled]


@pytest.mark.parametrize("hinted_below", [1, 2])
def test_the_search_finds_what_stalls_when_a_slot_keeps_its_hint(hinted_below: int) -> None:
    assert any(state.stalled for state in hints.reachable(7, hand_on=False, hinted_below=hinted_below))

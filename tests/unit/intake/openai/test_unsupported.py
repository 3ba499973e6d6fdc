"""What of OpenAI's parameters is refused, and what is accepted because it changes nothing."""

from typing import Any

import pytest

from services.intake.openai.unsupported import CHAT, RESPONSES, without_unsupported
from shared.errors import UnsupportedParameter

FORCED = {"type": "function", "function": {"name": "answer"}}


@pytest.mark.parametrize("asked", [{"tool_choice": FORCED}, {"tools": [{"type": "function"}]}])
@pytest.mark.parametrize("known", [CHAT, RESPONSES])
def test_a_refused_tool_names_the_way_to_an_object(known: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter, match=r"JSON schema send it in `response_format`"):
        without_unsupported(asked, known)


def test_no_reasoning_changes_nothing_in_either_api() -> None:
    assert without_unsupported({"reasoning": {"effort": "none"}}, RESPONSES) == {}
    assert without_unsupported({"reasoning_effort": "none"}, CHAT) == {}

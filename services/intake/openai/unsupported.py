"""Parameters of OpenAI's API that tileq does not have: a value that changes nothing is accepted, others are refused.

Nothing that would change the answer is ignored silently.
"""

from collections.abc import Mapping
from typing import Any

from shared.errors import UnsupportedParameter

#: Libraries that ask for an object by a forced tool have a mode that asks for it by a schema.
_NO_TOOLS = (
    "tools are not supported by this service; for an answer that follows a JSON schema "
    "send it in `response_format` (of /v1/responses: `text.format`)"
)
ANY = object()  #: every value is accepted: the parameter changes no answer
_IGNORED = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls")
_COMMON: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(_IGNORED, (ANY,)),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "service_tier": ("auto", "default"),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "top_logprobs": (0,),
    "moderation": (),
    "prompt_cache_options": (),
}
RESPONSES: Mapping[str, tuple[Any, ...]] = {
    **_COMMON,
    "include": ([], ["reasoning.encrypted_content"]),  # the models do not reason apart from the answer
    "truncation": ("disabled",),
    "reasoning": ({}, {"effort": "none"}),
    "stream_options": ({}, {"include_obfuscation": False}, {"include_obfuscation": True}),
    "conversation": (),
    "prompt": (),
    "max_tool_calls": (),
    "context_management": ([],),
    "background_options": ({}, {"completion_window": "soonest"}),
}
CHAT: Mapping[str, tuple[Any, ...]] = {
    **_COMMON,
    "n": (1,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def without_unsupported(body: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return `body` without the parameters of `known`. Raises `UnsupportedParameter` for one that would matter."""
    for name, value in body.items():
        if name in known:
            _refuse_unless_neutral(name, value, known[name])
    return {name: value for name, value in body.items() if name not in known}


def _refuse_unless_neutral(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value is None or any(one is ANY or (one == value and type(one) is type(value)) for one in neutral):
        return
    if isinstance(value, float) and value == 0 and 0 in neutral:
        return
    if "tool" in name or "function" in name:
        raise UnsupportedParameter(_NO_TOOLS, field=name)
    hint = f"leave `{name}` out" + (f", or send {neutral[0]!r}" if neutral else "")
    raise UnsupportedParameter(f"`{name}` is not supported by this service; {hint}", field=name)

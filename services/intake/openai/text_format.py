"""`text.format` and `response_format`: what the answer is to look like, as the JSON schema that decoding follows.

https://platform.openai.com/docs/guides/structured-outputs
"""

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidField

_KINDS = ("text", "json_object", "json_schema")
_OF_SCHEMA = ("name", "schema", "strict", "description")


def json_schema(value: Mapping[str, Any] | None, field: str) -> dict[str, Any] | None:
    """Return the schema that `value` asks for, None for plain text. Raises `InvalidField`.

    A schema stands beside `type` (Responses) or in `json_schema` (Chat Completions). It is enforced with and without
    `strict`.
    """
    if value is None:
        return None
    kind = value.get("type")
    if kind not in _KINDS:
        raise InvalidField(f"`{field}.type` must be one of {', '.join(_KINDS)}", field=f"{field}.type")
    if kind == "json_schema":
        nested = value.get("json_schema")
        return _schema(nested, f"{field}.json_schema") if nested is not None else _schema(value, field)
    return {"type": "object"} if kind == "json_object" else None


def _schema(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidField(f"`{field}` must be an object", field=field)
    for name in value:
        if name not in (*_OF_SCHEMA, "type"):
            raise InvalidField(f"unknown field `{field}.{name}`", field=f"{field}.{name}")
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise InvalidField(f"`{field}.schema` must be a JSON schema", field=f"{field}.schema")
    return schema

"""A schema is enforced whole or refused with the place of what can't be."""

from typing import Any

import pytest

from shared.json_schema import MAX_SCHEMA_BYTES, SchemaError, check_schema

ANSWER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40, "pattern": "^[a-z ]+$"},
        "kind": {"enum": ["car", "sign"]},
        "boxes": {"type": "array", "items": {"$ref": "#/$defs/box"}, "maxItems": 5},
        "note": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
    },
    "required": ["name", "kind", "boxes"],
    "additionalProperties": False,
    "$defs": {
        "box": {
            "type": "object",
            "properties": {"x": {"type": "number", "minimum": 0, "maximum": 999, "multipleOf": 0.5}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("schema", [ANSWER, {}, {"type": "object"}, {"type": "string", "format": "date"}])
def test_what_can_be_enforced_is_taken(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, "", "uniqueItems"),
        ({"type": "foo"}, "", "Invalid type"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "/properties/a", "not"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "pattern": "(?=a)b"}]}, "/anyOf/1", "look-around"),
        ({"type": "array", "items": {"type": "string", "format": "weird"}}, "/items", "format"),
        ({"properties": {"a/b~c": {"type": "array", "contains": {}}}}, "/properties/a~1b~0c", "contains"),
        (
            {"$defs": {"box": {"if": {}}}, "properties": {"a": {"$ref": "#/$defs/box"}}},
            "/$defs/box",
            "if",
        ),
        ({"properties": {"a": {"$ref": "https://example.org/schema"}}}, "/properties/a", "example.org"),
    ],
)
def test_what_can_not_be_enforced_is_named_with_its_place(schema: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        check_schema(schema)
    assert refusal.value.path == path
    assert reason in refusal.value.reason


def test_a_schema_of_many_bytes_is_refused() -> None:
    with pytest.raises(SchemaError, match="at most 32768 are allowed"):
        check_schema({"enum": ["x" * MAX_SCHEMA_BYTES]})

"""JSON schemas of answers: what decoding can enforce, and where a schema asks for more.

llguidance (https://github.com/guidance-ai/llguidance) turns a schema into a grammar. It refuses every keyword that it
does not enforce, so a schema that passes here holds for every answer that is not cut by its length.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits

MAX_SCHEMA_BYTES = 32_768  #: as JSON
#: A tenth of the library's defaults: a schema is compiled in a few milliseconds or refused.
LIMITS = LLParserLimits(
    initial_lexer_fuel=100_000, step_lexer_fuel=50_000, max_lexer_states=25_000, max_grammar_size=50_000
)
#: Answers on one line, spaced as models write JSON: white space would let a small model go on for ever.
_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_DEFINITIONS = ("$defs", "definitions")
#: Keywords that hold schemas by name; definitions first, so that a fault is found where it is and not where it is used.
_MAPS = (*_DEFINITIONS, "properties", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "additionalItems", "not", "contains", "if", "then", "else")

Schema = Mapping[str, Any]


class SchemaError(ValueError):
    """The schema can't be enforced; `path` (RFC 6901) leads to the smallest part of it that can't."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"at `{path or '/'}`: {reason}")
        self.path = path
        self.reason = reason


def grammar(schema: Schema) -> str:
    """Return llguidance's grammar of `schema`, without checking it."""
    compiled: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_LAYOUT)
    return compiled


def check_schema(schema: Schema) -> None:
    """Raise `SchemaError` unless every answer can be held to `schema`."""
    size = len(json.dumps(schema))
    if size > MAX_SCHEMA_BYTES:
        raise SchemaError("", f"the schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")
    if _fault(schema):
        path, reason = _smallest_fault(schema, "", {name: schema[name] for name in _DEFINITIONS if name in schema})
        raise SchemaError(path, reason)


def _fault(schema: Any) -> str:
    """What the library says against `schema`; empty if nothing."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar(schema), limits=LIMITS)
    del failed  # a warning is a keyword that is not enforced, which is a fault here
    return " ".join(str(messages[0]).split())[:300] if messages else ""


def _smallest_fault(schema: Any, path: str, definitions: Schema) -> tuple[str, str]:
    for place, part in _parts(schema):
        alone = {**definitions, **part} if isinstance(part, Mapping) else part
        if _fault(alone):
            return _smallest_fault(part, f"{path}/{place}", definitions)
    return path, _fault({**definitions, **schema} if isinstance(schema, Mapping) else schema)


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """The schemas inside a schema, with their places."""
    if not isinstance(schema, Mapping):
        return
    for keyword in _MAPS:
        if isinstance(schema.get(keyword), Mapping):
            for name, part in schema[keyword].items():
                yield f"{keyword}/{_escaped(name)}", part
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), Sequence) and not isinstance(schema[keyword], str):
            yield from ((f"{keyword}/{place}", part) for place, part in enumerate(schema[keyword]))
    for keyword in _SCHEMAS:
        if isinstance(schema.get(keyword), Mapping | bool):
            yield keyword, schema[keyword]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")

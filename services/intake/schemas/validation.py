"""JSON values read as a schema; what pydantic finds becomes one `InvalidField`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from shared.errors import InvalidField

M = TypeVar("M", bound=BaseModel)

MAX_LISTED_ERRORS = 20
MAX_NAMED_FIELDS = 3  #: in the message, beside the first; `errors` lists them all


def read(schema: type[M], value: Mapping[str, Any]) -> M:
    """Return `value` as a `schema`. Raises `InvalidField`. Strictly, as JSON, since only so strict lists are lists."""
    try:
        return schema.model_validate_json(json.dumps(value, ensure_ascii=False), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid_fields(found) from error


def worded(message: str) -> WrapValidator:
    """Return a validator by which the constraints before it are refused with `message`, not with their own words."""

    def check(value: object, constraints: ValidatorFunctionWrapHandler) -> object:
        try:
            return constraints(value)
        except ValidationError as error:
            raise ValueError(message) from error

    return WrapValidator(check)


def invalid_fields(found: Sequence[Any], skip: int = 0) -> InvalidField:
    """Return one error for what pydantic found; `skip` leading parts of each location are not the client's."""
    errors = [{"field": _path(one["loc"][skip:]), "detail": _detail(one)} for one in found[:MAX_LISTED_ERRORS]]
    first = errors[0]
    named = ", ".join(f"`{one['field']}`" for one in errors[1 : 1 + MAX_NAMED_FIELDS] if one["field"])
    more = f" (and {len(found) - 1} more{': ' if named else ''}{named})" if len(found) > 1 else ""
    place = f"`{first['field']}`: " if first["field"] else ""
    return InvalidField(f"{place}{first['detail']}{more}", field=first["field"] or None, errors=errors)


def _path(parts: Sequence[str | int]) -> str:
    if parts[:2] in (("tiles", "number"), ("tiles", "list")):  # pydantic's names for the two ways to write it
        parts = ("tiles", *parts[2:])
    return ".".join(map(str, parts))


def _detail(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]

"""The form of a hint's message in the broker (Celery's task message, version 2, as kombu puts it into a Redis list).

Whatever else stands in the list would end Celery's consumer, which trusts its broker: kombu and Celery read the fields
of a message before they catch errors, run what `chain` or `callbacks` name, and hold back what `eta` delays.
"""

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

MAX_BODY_CHARACTERS = 4096  #: in base64; a hint carries one id
_Text = Annotated[str, Field(max_length=512)]


def _names_one_id(body: str) -> str:
    args, kwargs, embedded = json.loads(base64.b64decode(body, validate=True))
    if type(args) is not list or [type(one) for one in args] != [str] or kwargs or any(embedded.values()):
        raise ValueError("it does not carry one id and nothing else")
    return body


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class _Headers(_Model):
    task: _Text
    id: _Text
    eta: None = None
    expires: None = None
    retries: int = 0
    group: None = None
    timelimit: Annotated[list[None], Field(max_length=2)] | None = None
    root_id: _Text | None = None
    parent_id: _Text | None = None
    stamped_headers: None = None
    stamps: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    compression: None = None


class _DeliveryInfo(_Model):
    exchange: Literal[""]
    routing_key: _Text


class _Properties(_Model):
    delivery_tag: _Text
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    correlation_id: _Text | None = None
    reply_to: _Text | None = None
    priority: int | None = 0


class _Envelope(_Model):
    body: Annotated[str, Field(max_length=MAX_BODY_CHARACTERS), AfterValidator(_names_one_id)]
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


def envelope_problem(message: Any, queue: str) -> str:
    """Return why `message`, parsed JSON from the list of `queue`, is no hint, or ""."""
    try:
        found = _Envelope.model_validate(message)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return str(error)
    return "" if found.properties.delivery_info.routing_key == queue else "it is for another queue"

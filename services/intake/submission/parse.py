"""A body turned into drafts: what is asked, and the pictures that came with it, nothing judged yet but form."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from services.intake.schemas.requests import JobRequest, read
from services.intake.submission.body import FORM, Form, Shape, Upload, image_too_large, media_type, read_form, read_json
from services.intake.submission.json_strict import parse_object
from services.intake.submission.prepare import too_many_images
from shared.errors import InvalidField, Malformed, UndecodableImage
from shared.settings import Settings

PLAIN = ("prompt", "model", "tiles", "max_new_tokens", "webhook")
_DATA_URI = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4};base64,", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}")


@dataclass(frozen=True)
class Draft:
    """One question as it was asked."""

    asked: JobRequest
    uploads: Sequence[Upload]

    def fingerprint(self, *more: str) -> str:
        """Return what tells this request from another; pictures count by content."""
        canonical = json.dumps(
            [self.asked.model_dump(mode="json"), [upload.sha256 for upload in self.uploads], *more], sort_keys=True
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


async def read_draft(request: Request, settings: Settings) -> Draft:
    """Return the draft that the body of `request` holds, in either form."""
    if media_type(request) == FORM:
        most = settings.max_images
        shape = Shape(lambda name: name == "image", most, too_many=lambda: too_many_images(most + 1, most))
        form = await read_form(request, settings, shape)
        return Draft(read(JobRequest, _asked(form)), form.files)
    body = await read_json(request, settings)
    images = body.pop("images", [])
    asked = read(JobRequest, body)
    return Draft(asked, read_images(images, settings))


def read_images(images: Any, settings: Settings) -> list[Upload]:
    """Return the pictures of a list of data URIs."""
    if not isinstance(images, list):
        raise InvalidField("`images` is a list of data URIs", field="images")
    if len(images) > settings.max_images:
        raise too_many_images(len(images), settings.max_images)
    return [read_data_uri(uri, n, settings.max_image_bytes) for n, uri in enumerate(images)]


def read_data_uri(uri: Any, n: int, limit: int) -> Upload:
    """Return the picture of the data URI of image `n`."""
    field = f"images.{n}"
    head = _DATA_URI.match(uri) if isinstance(uri, str) else None
    if head is None:
        detail = f"image {n} is not `data:image/…;base64,…`; this service fetches nothing, send the bytes"
        raise InvalidField(detail, field=field, image=n)
    if (len(uri) - head.end()) * 3 // 4 > limit + 2:
        raise image_too_large(n, limit)
    try:
        data = base64.b64decode(uri[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise UndecodableImage(f"the base64 of image {n} can't be read: {error}", image=n, field=field) from error
    if len(data) > limit:
        raise image_too_large(n, limit)
    return Upload.of(field, data)


def _asked(form: Form) -> dict[str, Any]:
    """Return the JSON that the texts of a form stand for."""
    for name in form.texts:
        if name not in (*PLAIN, "request"):
            hint = "; pictures are called `image`" if name.startswith("image") else ""
            raise InvalidField(f"there is no form field {name[:80]!r}{hint}", field=name)
    if "request" in form.texts:
        if len(form.texts) > 1:
            raise InvalidField("give either the part `request` or plain fields, not both", field="request")
        asked = parse_object(form.texts["request"])
        if "images" in asked:
            raise InvalidField("in a multipart body pictures are parts called `image`", field="images")
        return asked
    asked = {name: _text(form, name) for name in ("prompt", "model") if name in form.texts}
    if "tiles" in form.texts:
        asked["tiles"] = _number(form, "tiles")
    if "max_new_tokens" in form.texts:
        asked["generation"] = {"max_new_tokens": _number(form, "max_new_tokens")}
    if "webhook" in form.texts:
        asked["webhook"] = {"url": _text(form, "webhook")}
    return asked


def _text(form: Form, name: str) -> str:
    try:
        return form.texts[name].decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the field `{name}` is not UTF-8", field=name) from error


def _number(form: Form, name: str) -> int:
    text = _text(form, name).strip()
    if not _NUMBER.fullmatch(text):
        raise InvalidField(f"`{name}` is {text[:40]!r}, which is no whole number", field=name)
    return int(text)

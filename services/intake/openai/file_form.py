"""The forms of `POST /v1/files` and of the parts of `/v1/uploads`, as OpenAI's SDKs write them."""

from collections.abc import Callable
from typing import cast

from services.intake.submission.body import CHARSET_FIELD, Form, MultipartLimits
from services.intake.submission.file_store import FileFields
from services.intake.submission.size_errors import image_too_large
from shared.errors import BodyTooLarge, InvalidField, Malformed, RequestError, UnsupportedParameter
from shared.files import UPLOAD_PURPOSES, Purpose
from shared.settings.roles import IntakeSettings

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
EXPIRES_AFTER_S = (3600, 2_592_000)  #: least and most, as OpenAI has them
MAX_FILENAME_CHARS = 255
MAX_FORM_BYTES = 1 << 20  #: of the body, beside the file


def upload_limits(settings: IntakeSettings) -> MultipartLimits:
    """Return what the body of an upload may hold; its purpose, which may come behind the file, is not known yet."""
    return _one_file("file", max(settings.max_file_bytes, settings.max_image_bytes), _check_field, _too_large)


def read_fields(form: Form, settings: IntakeSettings) -> FileFields:
    """Return the fields of an upload whose file has arrived. Raises `RequestError`."""
    for name in form.fields:
        _check_field(name)
    if not form.files:
        raise InvalidField("the form has no part `file` with a file", field="file")
    file = form.files[0]
    purpose = _purpose(form)
    if file.size == 0:
        raise InvalidField("the file is empty", field="file")
    if purpose == "vision" and file.size > settings.max_image_bytes:
        raise image_too_large(0, settings.max_image_bytes)
    if file.size > settings.max_file_bytes:
        raise _too_large(settings.max_file_bytes)
    filename = file.filename or "file"
    if len(filename) > MAX_FILENAME_CHARS:
        raise InvalidField(f"the name of the file is longer than {MAX_FILENAME_CHARS} characters", field="file")
    return FileFields(purpose, filename, _expires_after(form))


def part_limits(max_bytes: int) -> MultipartLimits:
    """Return what the body of a part of an upload may hold."""
    return _one_file("data", max_bytes, _refuse_beside_data, _part_too_large)


def _one_file(
    part: str, max_bytes: int, check_field: Callable[[str], None], too_large: Callable[[int], RequestError]
) -> MultipartLimits:
    return MultipartLimits(
        lambda name: name == part,
        1,
        too_many_files=lambda: Malformed(f"send one `{part}` in each request", field=part),
        check_field=check_field,
        max_body_bytes=max_bytes + MAX_FORM_BYTES,
        max_file_bytes=max_bytes,
        file_too_large=lambda _, limit: too_large(limit),
    )


def read_part(form: Form) -> None:
    """Check the form of a part that has arrived. Raises `InvalidField`."""
    for name in form.fields:
        _refuse_beside_data(name)
    if not form.files or form.files[0].size == 0:
        raise InvalidField("the form has no part `data` with bytes", field="data")


def _refuse_beside_data(name: str) -> None:
    if name != CHARSET_FIELD:
        raise InvalidField(f"unknown form field {name[:80]!r}: the form holds `data` alone", field=name[:80])


def _part_too_large(limit: int) -> RequestError:
    return BodyTooLarge(f"a part has at most {limit} bytes", field="data")


def _check_field(name: str) -> None:
    if name not in ("purpose", ANCHOR, SECONDS, CHARSET_FIELD):
        hint = f"the fields are `file`, `purpose`, `{ANCHOR}` and `{SECONDS}`"
        raise InvalidField(f"unknown form field {name[:80]!r}: {hint}", field=name[:80])


def _purpose(form: Form) -> Purpose:
    known = ", ".join(f"`{purpose}`" for purpose in UPLOAD_PURPOSES)
    if not form.has("purpose"):
        raise InvalidField(f"send `purpose`, one of {known}", field="purpose")
    purpose = form.text("purpose").strip()
    if purpose not in UPLOAD_PURPOSES:
        detail = f"`purpose` {purpose[:40]!r} is not supported; send one of {known}"
        raise UnsupportedParameter(detail, field="purpose")
    return cast(Purpose, purpose)


def _expires_after(form: Form) -> float | None:
    if not form.has(SECONDS) and not form.has(ANCHOR):
        return None
    if not form.has(ANCHOR) or form.text(ANCHOR) != "created_at":
        raise InvalidField(f"`{ANCHOR}` must be `created_at`", field="expires_after.anchor")
    text, (least, most) = form.text(SECONDS).strip() if form.has(SECONDS) else "", EXPIRES_AFTER_S
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise InvalidField(f"`{SECONDS}` must be {least} to {most}", field="expires_after.seconds")
    return float(text)


def _too_large(limit: int) -> RequestError:
    return BodyTooLarge(f"the file is larger than {limit} bytes, the most that is allowed", field="file")

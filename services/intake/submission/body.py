"""Request bodies, read under limits while they arrive: total bytes, bytes of each part, number of parts, and time."""

import asyncio
import codecs
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.intake.submission.json_body import Reservation, body_memory, off_loop
from services.intake.submission.json_strict import parse_object
from services.intake.submission.size_errors import image_too_large
from services.intake.uploads import Upload
from shared.errors import BodyTooLarge, InvalidField, Malformed, RequestError, UnsupportedMediaType
from shared.settings.roles import IntakeSettings

T = TypeVar("T")

FORM, JSON = "multipart/form-data", "application/json"

MAX_TEXT_BYTES = 8 << 20  #: of one field, the JSON of a large batch included
MIN_BYTES_PER_S = 16 << 10  #: below this a body is refused once `body_timeout` has passed
MAX_EMPTY_BYTES = 64  #: of a body that says nothing
MAX_UNCHECKED_BYTES = 64 << 10  #: of a field whose name was not checked yet
CHARSET_FIELD = "_charset_"  #: names the charset of text fields that name none (RFC 7578, 4.6)
#: Beginnings of Python's names of charsets.
_CHARSETS = ("utf-8", "utf-16", "utf-32", "ascii", "iso", "cp", "gb", "big5", "euc", "shift_jis", "koi8", "mac-", "tis")
_PLAIN_ENCODINGS = ("7bit", "8bit", "binary")


@dataclass
class Text:
    """A field of a form as it was sent."""

    data: bytes
    charset: str = ""


@dataclass
class Form:
    """A multipart body: fields by name, and files in the order they came."""

    fields: dict[str, Text] = field(default_factory=dict)
    files: list[Upload] = field(default_factory=list)

    def text(self, name: str) -> str:
        """Return field `name`, decoded by its charset, or the form's `_charset_`, or UTF-8. Raises `Malformed`."""
        sent = self.fields[name]
        default = self.fields[CHARSET_FIELD].data.decode("ascii", "replace") if CHARSET_FIELD in self.fields else ""
        charset = sent.charset or default or "utf-8"
        if not _is_charset(charset):
            detail = f"the field `{name}` has the unknown charset {charset[:40]!r}; send UTF-8"
            raise Malformed(detail, field=name)
        try:
            return sent.data.decode(charset)
        except UnicodeError as error:
            raise Malformed(f"the field `{name}` is not {charset.upper()}", field=name) from error

    def has(self, name: str) -> bool:
        """Tell whether field `name` was sent, and not empty."""
        return name in self.fields and bool(self.fields[name].data)


def _is_charset(name: str) -> bool:
    """Tell whether `name` is a charset of text: Python also has codecs that unpack or unescape."""
    try:
        return codecs.lookup(name).name.startswith(_CHARSETS)
    except (LookupError, ValueError):
        return False


@dataclass(frozen=True)
class MultipartLimits:
    """What a multipart body may hold.

    `is_file` tells a file part from a field by its name; `check_field` raises for a large field that is not expected,
    which is a file under a wrong name. Sizes are those of the settings where they are None.
    """

    is_file: Callable[[str], bool]
    max_files: int
    max_fields: int = 32
    too_many_files: Callable[[], RequestError] = lambda: Malformed("the body has too many parts")
    check_field: Callable[[str], None] = lambda _: None
    max_body_bytes: int | None = None
    max_file_bytes: int | None = None
    file_too_large: Callable[[int, int], RequestError] = image_too_large  #: (index, limit in bytes)


async def read_body(
    request: Request,
    settings: IntakeSettings,
    limits: MultipartLimits,
    read_object: Callable[[dict[str, Any], Reservation], T],
) -> Form | T:
    """Return the parts of a multipart body, or what `read_object` makes of the object of a JSON one.

    `read_object` runs in another thread for a large body; the memory counts until the reservation is dropped.
    Raises `RequestError`.
    """
    if _media_type(request, FORM, JSON) == FORM:
        return await read_form(request, settings, limits)
    return await _read_json(request, settings, read_object)


async def _nothing() -> None:
    """Drain nothing."""


async def read_form(
    request: Request,
    settings: IntakeSettings,
    limits: MultipartLimits,
    *,
    open_file: Callable[[str, str | None], Upload] = Upload,
    drain: Callable[[], Awaitable[None]] = _nothing,
) -> Form:
    """Return the parts of a multipart body whose files come from `open_file` and are taken by `drain` as they grow.

    Raises `RequestError`.
    """
    _media_type(request, FORM)
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("Content-Type multipart/form-data names no boundary")
    parts = _Parts(limits, limits.max_file_bytes or settings.max_image_bytes, open_file)
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # its TypedDict wants literals
        async for chunk in _chunks(request, settings, limits.max_body_bytes):
            parser.write(chunk)
            await drain()
        parser.finalize()
    except FormParserError as error:
        raise Malformed(f"the multipart body can't be parsed: {error}") from error
    if not parts.complete:
        raise Malformed("the multipart body ends before its closing boundary")
    return parts.form


async def read_json(
    request: Request, settings: IntakeSettings, *, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the object of a JSON body, or `default` where there is no body. Raises `RequestError`."""
    if default is not None and not _has_body(request):
        return default
    return await read_json_as(request, settings, lambda body: body)


async def read_json_as(request: Request, settings: IntakeSettings, read_object: Callable[[dict[str, Any]], T]) -> T:
    """Return what `read_object`, in another thread for a large body, makes of a JSON one. Raises `RequestError`."""
    _media_type(request, JSON)
    return await _read_json(request, settings, lambda body, _: read_object(body))


async def _read_json(
    request: Request, settings: IntakeSettings, read_object: Callable[[dict[str, Any], Reservation], T]
) -> T:
    held, chunks = body_memory().reserve(), list[bytes]()
    limit = max(settings.max_json_memory, settings.max_body_bytes)  # one allowed body always has room
    async for chunk in _chunks(request, settings):
        held.add(len(chunk), limit)
        chunks.append(chunk)

    def parse() -> T:
        body = b"".join(chunks)
        chunks.clear()
        return read_object(parse_object(body), held)

    return await off_loop(held.size, parse)


async def refuse_body(request: Request, settings: IntakeSettings) -> None:
    """Raise `Malformed` for a body that a call without one would ignore; an empty object is as good as none."""
    if not _has_body(request):
        return
    sent = b""
    async for chunk in _chunks(request, settings):
        sent += chunk
        if len(sent) > MAX_EMPTY_BYTES or sent.strip() not in (b"", b"{", b"{}"):
            detail = f"{request.method} {request.scope['route'].path} takes no body and would ignore it; leave it out"
            raise Malformed(detail)


def _media_type(request: Request, *accepted: str) -> str:
    """Return the media type of the body. Raises `UnsupportedMediaType` for a compressed one or none of `accepted`."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]!r} is not supported; send the body uncompressed")
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind not in accepted:
        found = f"Content-Type is {kind[:80]!r}" if kind else "the request has no Content-Type"
        raise UnsupportedMediaType(f"{found}; this call accepts {' or '.join(accepted)}")
    _, options = parse_options_header(sent)
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if kind == JSON and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"Content-Type names the charset {charset[:40]!r}; JSON is sent in UTF-8")
    return kind


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0").strip("0") != ""


async def _chunks(
    request: Request, settings: IntakeSettings, max_body_bytes: int | None = None
) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; refuse it once it is too long, silent or slow."""
    limit = max_body_bytes or settings.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    received, began = 0, time.monotonic()
    stream = request.stream()
    while True:
        left = began + settings.body_timeout + received / MIN_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(min(left, settings.body_timeout)):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise Malformed(f"the body arrived too slowly: {received} bytes so far") from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        request.state.received = received
        if chunk:
            yield chunk


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send fewer or smaller files")


class _Parts:
    """Collects the parts of one body; its methods are the parser's callbacks."""

    def __init__(
        self, limits: MultipartLimits, max_file_bytes: int, open_file: Callable[[str, str | None], Upload]
    ) -> None:
        self.form = Form()
        self.complete = False
        self._limits = limits
        self._max_file_bytes = max_file_bytes
        self._open_file = open_file
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._file: Upload | None = None
        self._text = bytearray()
        self._charset = ""
        self._name = ""
        self._begun = 0

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what `MultipartParser` calls."""
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin(self) -> None:
        self._begun += 1
        if self._begun > self._limits.max_files + self._limits.max_fields:  # also of empty files, which are dropped
            raise Malformed("the multipart body has too many parts")
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise Malformed("a part of the multipart body has no `Content-Disposition: form-data; name=…`")
        self._name = _utf8(options[b"name"], "the name of a part")
        self._refuse_transfer_encoding()
        if self._limits.is_file(self._name):
            self._begin_file(options.get(b"filename"))
        else:
            self._begin_field()

    def _begin_file(self, filename: bytes | None) -> None:
        if len(self.form.files) >= self._limits.max_files:
            raise self._limits.too_many_files()
        self._file = self._open_file(self._name, None if filename is None else filename.decode("utf-8", "replace"))

    def _begin_field(self) -> None:
        if len(self.form.fields) >= self._limits.max_fields:
            raise Malformed("the multipart body has too many fields")
        _, options = parse_options_header(self._headers.get(b"content-type"))
        self._charset = options.get(b"charset", b"").decode("latin-1")
        self._file = None
        self._text.clear()

    def _refuse_transfer_encoding(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").decode("latin-1").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            detail = f"the part {self._name[:80]!r} has Content-Transfer-Encoding {encoding[:40]!r}"
            raise Malformed(f"{detail}; send its bytes as they are, without that header", field=self._name[:80])

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += data[start:end]
            if len(self._text) > MAX_UNCHECKED_BYTES:
                self._limits.check_field(self._name)
            if len(self._text) > MAX_TEXT_BYTES:
                detail = f"the field {self._name[:80]!r} is larger than {MAX_TEXT_BYTES} bytes"
                raise BodyTooLarge(detail, field=self._name)
            return
        self._file.write(data[start:end])
        if self._file.size > self._max_file_bytes:
            raise self._limits.file_too_large(len(self.form.files), self._max_file_bytes)

    def _end(self) -> None:
        if self._file is not None:
            if self._file.size or self._file.filename:  # else an input of a web form that was left empty
                self.form.files.append(self._file)
        elif self._name in self.form.fields:
            raise InvalidField(f"duplicate field {self._name[:80]!r}", field=self._name)
        else:
            self.form.fields[self._name] = Text(bytes(self._text), self._charset)

    def _finish(self) -> None:
        self.complete = True


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is not UTF-8") from error

"""The body of a request, read under limits while it comes: bytes in all, of each part, parts, and how long it takes."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.intake.submission.json_strict import parse_object
from shared.errors import BodyTooLarge, ImageTooLarge, InvalidField, Malformed, UnsupportedMediaType
from shared.settings import Settings

FORM, JSON = "multipart/form-data", "application/json"

TEXT_BYTES = 8 << 20  #: of one field, the JSON of a large batch included
IN_MEMORY = 1 << 20  #: of one file; what is larger goes to the disk while it comes
SLOWEST = 16 << 10  #: bytes per second below which a body is given up, once `body_timeout` has passed


class Upload:
    """The bytes of one picture, and what they hash to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.file: BinaryIO = cast(BinaryIO, SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115  # lives on
        self.lock = threading.Lock()
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def __del__(self) -> None:
        """Close the file with its last user, who may be a thread that outlives the request."""
        self.file.close()

    @property
    def sha256(self) -> str:
        """Hash of all that was written."""
        return self._hash.hexdigest()

    @classmethod
    def of(cls, name: str, data: bytes) -> "Upload":
        """Return the upload of bytes that are here already."""
        upload = cls(name)
        upload.write(data)
        return upload


@dataclass
class Form:
    """A multipart body: texts by name, and files in the order they came."""

    texts: dict[str, bytes] = field(default_factory=dict)
    files: list[Upload] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """What a multipart body may hold."""

    is_file: Callable[[str], bool]
    most_files: int
    most_texts: int = 32
    too_many: Callable[[], Exception] = lambda: Malformed("the body has too many parts")


def media_type(request: Request) -> str:
    """Return the media type of the body, or raise `UnsupportedMediaType` for one that is compressed or unknown."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]!r} is not taken; send the body as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise UnsupportedMediaType(f"Content-Type is {kind[:80]!r}; send {FORM} or {JSON}")
    return kind


async def read_json(request: Request, settings: Settings, *, empty_is: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON object of the body; where there is no body at all, `empty_is` if given."""
    if empty_is is not None and not _announced(request):
        return empty_is
    if media_type(request) != JSON:
        raise UnsupportedMediaType(f"this call takes {JSON} only")
    return parse_object(b"".join([chunk async for chunk in _chunks(request, settings)]))


async def read_form(request: Request, settings: Settings, shape: Shape) -> Form:
    """Return the parts of a multipart body."""
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("Content-Type multipart/form-data names no boundary")
    parts = _Parts(shape, settings.max_image_bytes)
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # its TypedDict wants literals
        async for chunk in _chunks(request, settings):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Malformed(f"the multipart body can't be read: {error}") from error
    if not parts.ended:
        raise Malformed("the multipart body ends before its closing boundary")
    return parts.form


def _announced(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


async def _chunks(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """Yield the body as it comes; refuse it once it is too long, silent or slow."""
    limit = settings.max_body_bytes
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told[:20]) > limit:
        raise _too_large(limit)
    received, began = 0, time.monotonic()
    stream = request.stream()
    while True:
        left = began + settings.body_timeout + received / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(min(left, settings.body_timeout)):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise Malformed(f"the body came too slowly: {received} bytes so far") from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        request.state.received = received
        if chunk:
            yield chunk


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send fewer or smaller images")


class _Parts:
    """What the parser calls, part by part."""

    def __init__(self, shape: Shape, most_bytes: int) -> None:
        self.form = Form()
        self.ended = False
        self._shape = shape
        self._most_bytes = most_bytes
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._file: Upload | None = None
        self._text = bytearray()
        self._name = ""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._close,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = b""

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise Malformed("a part of the multipart body has no `Content-Disposition: form-data; name=…`")
        self._name = _utf8(options[b"name"], "the name of a part")
        self._text.clear()
        self._file = Upload(self._name) if self._shape.is_file(self._name) else None
        if self._file and len(self.form.files) >= self._shape.most_files:
            raise self._shape.too_many()
        if not self._file and len(self.form.texts) >= self._shape.most_texts:
            raise Malformed("the multipart body has too many fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += data[start:end]
            if len(self._text) > TEXT_BYTES:
                raise BodyTooLarge(f"the field {self._name[:80]!r} is larger than {TEXT_BYTES} bytes", field=self._name)
            return
        self._file.write(data[start:end])
        if self._file.size > self._most_bytes:
            image = len(self.form.files)
            raise image_too_large(image, self._most_bytes)

    def _close(self) -> None:
        if self._file is not None:
            self.form.files.append(self._file)
        elif self._name in self.form.texts:
            raise InvalidField(f"the field {self._name[:80]!r} is there twice", field=self._name)
        else:
            self.form.texts[self._name] = bytes(self._text)

    def _end(self) -> None:
        self.ended = True


def image_too_large(image: int, limit: int) -> ImageTooLarge:
    """Return the refusal of image number `image`."""
    return ImageTooLarge(f"image {image} is larger than {limit} bytes", image=image)


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is not UTF-8") from error

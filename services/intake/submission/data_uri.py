"""Images as data URIs, read as leniently as encoders write them (WHATWG's forgiving base64)."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from services.intake.submission.size_errors import image_too_large
from services.intake.uploads import Upload
from shared.errors import InvalidField, UndecodableImage

#: RFC 2397 puts `base64` last; some encoders put parameters behind it.
_HEAD = re.compile(r"\s*data:[^,]{0,300}?;\s*base64\s*(?:;[^,]{0,200})?,", re.ASCII | re.IGNORECASE)
PIECE_CHARACTERS = 1 << 20  #: of base64 decoded at once; a multiple of 4
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f"


def read_data_uri(uri: Any, image: int, max_bytes: int) -> Upload:
    """Return the bytes of image number `image`. Raises `InvalidField`, `UndecodableImage` or `ImageTooLarge`.

    Scheme and `base64` may be in any case; line breaks, spaces, missing padding, the URL-safe alphabet and percent
    escapes are accepted.
    """
    field = f"images.{image}"
    if not isinstance(uri, str):
        detail = f"image {image} must be a string, the data URI `data:image/…;base64,…`"
        raise InvalidField(detail, field=field, image=image)
    head = _HEAD.match(uri)
    if head is None:
        raise InvalidField(f"image {image} {_why(uri)}", field=field, image=image)
    try:
        encoded = uri[head.end() :].encode("ascii")
        if b"%" in encoded:
            encoded = unquote_to_bytes(encoded)
        encoded = encoded.translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
        if len(encoded) * 3 // 4 > max_bytes:
            raise image_too_large(image, max_bytes)
        upload = Upload(field)
        for piece in _decoded(encoded + b"=" * (-len(encoded) % 4)):
            upload.write(piece)
    except (binascii.Error, UnicodeEncodeError) as error:
        detail = f"the base64 of image {image} is broken: it holds other characters than base64's, or was cut"
        raise UndecodableImage(detail, image=image, field=field) from error
    return upload


def _decoded(encoded: bytes) -> Iterator[bytes]:
    """Yield the bytes piece by piece: a call of `b64decode` keeps the GIL. Raises `binascii.Error`."""
    if b"=" in encoded[:-3]:  # at the end of a piece it would count as padding
        raise binascii.Error("padding stands before the end")
    for start in range(0, len(encoded), PIECE_CHARACTERS):
        yield base64.b64decode(encoded[start : start + PIECE_CHARACTERS], validate=True)


def _why(uri: str) -> str:
    start = uri[:40].strip().lower()
    if start.startswith("data:"):
        return "is a data URI without `;base64,`; encode its bytes in base64"
    return "is not `data:image/…;base64,…`; put that in front of the base64 of its bytes"

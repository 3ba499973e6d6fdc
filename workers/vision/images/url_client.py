"""Fetches one image by its URL over guarded connections (`shared.outbound.connection`), following a few redirects.

Nothing is decoded here: the first bytes must be those of an accepted format, and no body is unpacked, so that a small
one stays small. Messages name the host and never the URL, whose query may hold a signature.
"""

import ssl
from collections.abc import Mapping

import httpcore
import httpx

from shared.errors import ImageTooLarge, ImageUrlRefused, Permanent, Transient, UnsupportedImageType
from shared.image_urls import image_url_policy
from shared.images import SNIFF_BYTES, accepted_formats, accepted_names, sniff
from shared.outbound.connection import (
    FAILURES,
    TIMEOUTS,
    Deadline,
    Dial,
    Egress,
    exchange,
    failure_text,
    tls_context,
)
from shared.outbound.ssrf import Lookup, Target, check_url
from shared.settings.roles import VisionWorkerSettings

FAILED = "image_fetch_failed"  #: code of a job whose image was not served
MAX_REDIRECTS = 5
MAX_OVERHEAD_BYTES = 256 << 10  #: of a response beside its body: headers, interim responses, the framing of chunks
#: What a server may call an image; some know no better type than the second.
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING_STATUSES = (408, 425, 429)  #: beside those of 500 and above
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "tileq"}


class ImageUrlClient:
    """Fetches images; safe to share between threads. Tests replace `lookup`, `dial` and `tls`."""

    def __init__(
        self,
        settings: VisionWorkerSettings,
        *,
        lookup: Lookup | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = image_url_policy(settings)
        self._max_bytes = settings.max_image_bytes
        context = tls or tls_context(settings.image_url_ca_file)
        self._egress = Egress(context, settings.image_url_proxy_endpoint, lookup=lookup, dial=dial)

    def get(self, url: str, deadline: Deadline) -> bytes:
        """Return the image at `url`. Raises `Permanent`, or `Transient` where repeating may help."""
        host = ""
        try:
            for _ in range(1 + MAX_REDIRECTS):
                target = check_url(url, self._policy)
                host = target.host
                answer = self._answer(target, deadline)
                if isinstance(answer, bytes):
                    return answer
                url = str(httpx.URL(url).join(answer.location))
        except ImageUrlRefused as error:
            if error.retryable:
                raise Transient(FAILED, f"the name {host} could not be resolved") from error
            raise Permanent(error.code, error.detail) from error
        except httpx.InvalidURL as error:
            raise Permanent(FAILED, f"{host} redirects to what is not a URL") from error
        except TIMEOUTS as error:
            raise Transient(FAILED, f"{host} did not send the image in time") from error
        except FAILURES as error:
            raise Transient(FAILED, f"{host}: {failure_text(error)}") from error
        raise Permanent(FAILED, f"{host} redirects more than {MAX_REDIRECTS} times")

    def _answer(self, target: Target, deadline: Deadline) -> "bytes | _Redirect":
        with exchange(
            self._egress,
            self._policy,
            target,
            deadline,
            method="GET",
            headers=_HEADERS,
            max_read_bytes=self._max_bytes + self._max_bytes // 8 + MAX_OVERHEAD_BYTES,
        ) as response:
            headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and "location" in headers:
                return _Redirect(headers["location"])
            _check_status(response.status, target.host)
            _check_headers(headers, target.host)
            return _checked_type(self._body(response, headers, target.host), target.host)

    def _body(self, response: httpcore.Response, headers: Mapping[str, str], host: str) -> bytes:
        announced = headers.get("content-length", "")
        size, chunks = int(announced) if announced.isdigit() else 0, list[bytes]()
        stream = response.iter_stream()
        received = 0
        while max(size, received) <= self._max_bytes:
            chunk = next(stream, None)
            if chunk is None:
                return b"".join(chunks)
            received += len(chunk)
            chunks.append(chunk)
        raise Permanent(ImageTooLarge.code, f"{host} sends more than {self._max_bytes} bytes, the most of one image")


class _Redirect:
    """Where a response leads, as its header says."""

    def __init__(self, location: str) -> None:
        self.location = location


def _check_status(status: int, host: str) -> None:
    if status == 200:
        return
    detail = f"{host} answered {status}"
    if status >= 500 or status in _PASSING_STATUSES:
        raise Transient(FAILED, detail)
    raise Permanent(FAILED, detail)


def _check_headers(headers: Mapping[str, str], host: str) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Permanent(FAILED, f"{host} sends the image in Content-Encoding {encoding[:40]!r}, which is not unpacked")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and not media_type.startswith(_TYPES):
        raise Permanent(UnsupportedImageType.code, f"{host} sends {media_type[:80]!r} instead of an image")


def _checked_type(data: bytes, host: str) -> bytes:
    if sniff(data[:SNIFF_BYTES]) not in accepted_formats():
        detail = f"what {host} sends is no image of an accepted format by its content: {accepted_names()}"
        raise Permanent(UnsupportedImageType.code, detail)
    return data

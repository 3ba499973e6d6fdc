"""One GET from servers of every kind: bounded in time and bytes, and never to an address that is not permitted."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from shared.errors import Permanent, Transient
from shared.outbound.connection import Deadline
from shared.settings.roles import Settings
from tests.bad_receivers import LINE, BadReceiver, Behave, answers, bad_receiver, drips, floods, hangs_up, is_silent
from tests.connect_proxy import connect_proxy
from tests.outbound import LEADS_HOME, Answers, Nat, fails, spied_connections, takes_too_long
from tests.unit.shared.outbound.test_ssrf import LITERALS, PUBLIC, REFUSED_BY_TEXT, looks_up
from workers.vision.images.url_client import MAX_REDIRECTS, ImageUrlClient

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
LOOPBACK = (ip_network("127.0.0.0/8"),)
HOME = "https://images.example/street.png"


def client(**changes: Any) -> ImageUrlClient:
    given: dict[str, Any] = {"image_urls": True, "image_url_allow": LOOPBACK}
    return ImageUrlClient(Settings(**given | changes))


def get(url: str, fetcher: ImageUrlClient | None = None, within: float = 2) -> bytes:
    return (fetcher or client()).get(url, Deadline(time.monotonic() + within))


def failure(url: str, fetcher: ImageUrlClient | None = None, within: float = 2) -> Permanent | Transient:
    with pytest.raises((Permanent, Transient)) as raised:
        get(url, fetcher, within)
    assert isinstance(raised.value, Permanent | Transient)
    return raised.value


@pytest.fixture
def connections() -> Iterator[list[object]]:
    with spied_connections() as seen:
        yield seen


def redirects(location: str, status: int = 302) -> Behave:
    return answers(status, f"location: {location}\r\n")


# --- what is fetched


def test_an_image_comes_whole_and_nothing_but_the_url_is_sent() -> None:
    with bad_receiver(answers(200, "content-type: image/png\r\n", PNG)) as server:
        assert get(f"{server.url}?signature=a%2Fb") == PNG
    lines = server.requests[0].lower().split(b"\r\n")
    assert lines[0] == b"get /hook?signature=a%2fb http/1.1"
    assert {b"accept-encoding: identity", b"connection: close"} <= set(lines)
    assert not any(line.startswith((b"authorization", b"cookie", b"referer", b"content-length")) for line in lines)


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; charset=x", "application/octet-stream", ""])
def test_the_content_decides_not_the_type_that_a_server_names(kind: str) -> None:
    header = f"content-type: {kind}\r\n" if kind else ""
    with bad_receiver(answers(200, header, PNG)) as server:
        assert get(server.url) == PNG


def test_an_image_in_chunks_comes_whole() -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:5], PNG[5:])) + b"0\r\n\r\n"
    with bad_receiver(lambda one: one.sendall(LINE + b"transfer-encoding: chunked\r\n\r\n" + body)) as server:
        assert get(server.url) == PNG


def test_proxy_variables_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with bad_receiver(answers(200, body=PNG)) as server, bad_receiver(answers(200)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert get(server.url) == PNG
    assert proxy.connections == 0


# --- servers of every kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, Permanent), (403, Permanent), (410, Permanent), (204, Permanent), (206, Permanent), (304, Permanent)]
    + [(status, Transient) for status in (408, 425, 429, 500, 502, 503, 504)],
)
def test_a_status_that_may_pass_is_tried_again_and_another_is_final(status: int, kind: type[Exception]) -> None:
    with bad_receiver(answers(status, body=b"" if status in (204, 304) else PNG)) as server:
        error = failure(server.url)
    assert (type(error), error.code, error.detail) == (kind, "image_fetch_failed", f"127.0.0.1 answered {status}")


SLOW = {
    "says nothing": is_silent,
    "drips a status line": drips(b"HTTP/1.1 2", b"0"),
    "drips headers": drips(LINE, b"x: y\r\n"),
    "drips its body": drips(LINE + b"content-length: 9999\r\n\r\n" + PNG[:20], b"x"),
}


@pytest.mark.parametrize("behave", SLOW.values(), ids=SLOW)
def test_who_is_slow_is_left_at_the_deadline_and_tried_again(behave: Behave) -> None:
    with bad_receiver(behave) as server:
        error = failure(server.url, within=0.5)
    assert (type(error), error.detail) == (Transient, "127.0.0.1 did not send the image in time")


BROKEN = {
    "endless headers": floods(LINE, b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
    "zeros": floods(b"", b"\0" * 1000),
    "hangs up": hangs_up,
    "cuts its body": lambda one: one.sendall(LINE + b"content-length: 9999\r\n\r\n" + PNG),
}


@pytest.mark.parametrize("behave", BROKEN.values(), ids=BROKEN)
def test_what_is_not_http_is_an_error_that_may_pass(behave: Behave) -> None:
    with bad_receiver(behave) as server:
        error = failure(server.url)
    assert (type(error), error.code) == (Transient, "image_fetch_failed")


ENDLESS = {
    "with a length": floods(LINE + b"content-length: 1000000000\r\n\r\n" + PNG, b"x" * 1000),
    "until closed": floods(LINE + b"\r\n" + PNG, b"x" * 1000),
    "in chunks": floods(LINE + b"transfer-encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
}


@pytest.mark.parametrize("behave", ENDLESS.values(), ids=ENDLESS)
def test_of_an_endless_body_no_more_is_read_than_an_image_may_have(behave: Behave) -> None:
    with bad_receiver(behave) as server:
        error = failure(server.url, client(max_image_bytes=50_000), within=20)
    assert (type(error), error.code) == (Permanent, "image_too_large")


def test_a_body_in_chunks_of_one_byte_is_left_early() -> None:
    with bad_receiver(floods(LINE + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n")) as server:
        error = failure(server.url, client(max_image_bytes=1 << 20), within=20)
    assert error.detail.startswith("127.0.0.1: HTTP: more than ")


def test_an_image_of_exactly_the_limit_is_taken() -> None:
    with bad_receiver(answers(200, body=PNG)) as server:
        assert get(server.url, client(max_image_bytes=len(PNG))) == PNG
        assert failure(server.url, client(max_image_bytes=len(PNG) - 1)).code == "image_too_large"


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * (8 << 20))
    with bad_receiver(answers(200, "content-encoding: gzip\r\ncontent-type: image/png\r\n", bomb)) as server:
        error = failure(server.url)
    assert (type(error), error.code) == (Permanent, "image_fetch_failed")
    assert "'gzip', which is not unpacked" in error.detail


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("content-type: text/html\r\n", PNG),
        ("content-type: image/png\r\n", b"<html>sign in</html>"),
        ("content-type: image/svg+xml\r\n", b"<svg/>"),
        ("", b""),
    ],
)
def test_what_is_no_image_is_refused_for_good(headers: str, body: bytes) -> None:
    with bad_receiver(answers(200, headers, body)) as server:
        error = failure(server.url)
    assert (type(error), error.code) == (Permanent, "unsupported_image_type")


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status: int) -> None:
    with bad_receiver(answers(200, body=PNG)) as home, bad_receiver(redirects(home.url, status)) as server:
        assert get(server.url) == PNG


def test_a_relative_redirect_stays_with_its_server() -> None:
    with bad_receiver(redirects("/next?a=1")) as server:
        assert failure(server.url).detail == f"127.0.0.1 redirects more than {MAX_REDIRECTS} times"
    assert server.requests[1].startswith(b"GET /next?a=1 HTTP/1.1\r\n")
    assert server.connections == 1 + MAX_REDIRECTS


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/",
        "https://10.0.0.1/",
        "https://167772161/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/_x",
        "https://user:secret@127.0.0.1/",
        "http://127.0.0.1:22/",
    ],
)
def test_a_redirect_to_where_no_image_may_come_from_is_refused(location: str, connections: list[object]) -> None:
    with bad_receiver(redirects(location)) as server:
        error = failure(server.url, client(image_url_allow=(ip_network("127.0.0.1/32"),)))
    assert (type(error), error.code) == (Permanent, "image_url_refused")
    assert {place for place in connections if place != ("127.0.0.1", server.port)} == set()


def test_a_redirect_to_a_name_that_leads_home_is_refused() -> None:
    nat, lookup = Nat(), Answers((PUBLIC,), ("10.0.0.1",))
    with bad_receiver(redirects("http://inside.example/")) as server:
        nat.port = server.port
        settings = Settings(image_urls=True, image_url_http=True)
        error = failure("http://images.example/a.png", ImageUrlClient(settings, lookup=lookup, dial=nat))
    assert (error.code, lookup.asked, nat.dialled) == ("image_url_refused", 2, [PUBLIC])


def test_all_redirects_together_have_one_deadline() -> None:
    def slowly(connection: socket.socket) -> None:
        threading.Event().wait(0.3)
        redirects("/")(connection)

    with bad_receiver(slowly) as server:
        assert failure(server.url, within=0.8).detail == "127.0.0.1 did not send the image in time"
    assert server.connections <= 3


# --- where it may go


@pytest.mark.parametrize("url", [*REFUSED_BY_TEXT, *(f"https://{host}/" for host in LITERALS)], ids=ascii)
def test_no_socket_is_connected_for_a_url_that_is_refused(url: str, connections: list[object]) -> None:
    error = failure(url, ImageUrlClient(Settings(image_urls=True)))
    assert (type(error), error.code) == (Permanent, "image_url_refused")
    assert connections == []


@pytest.mark.parametrize("name", LEADS_HOME)
def test_no_socket_is_connected_for_a_name_that_leads_home(name: str, connections: list[object]) -> None:
    error = failure(HOME, ImageUrlClient(Settings(image_urls=True), lookup=LEADS_HOME[name]()), within=0.5)
    assert error.code == ("image_fetch_failed" if name == "late" else "image_url_refused")
    assert connections == []


def test_loopback_is_refused_unless_it_is_allowed_even_in_a_service_without_keys() -> None:
    with bad_receiver(answers(200, body=PNG)) as server:
        assert failure(server.url, client(image_url_allow=())).code == "image_url_refused"
        assert get(server.url) == PNG
    assert server.connections == 1


def test_the_networks_of_webhooks_are_not_those_of_images() -> None:
    with bad_receiver(answers(200, body=PNG)) as server:
        assert failure(server.url, client(image_url_allow=(), webhook_allow=LOOPBACK)).code == "image_url_refused"
    assert server.connections == 0


def test_a_name_that_does_not_exist_is_final_and_a_resolver_that_fails_is_not() -> None:
    def again(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    kinds = [type(failure(HOME, ImageUrlClient(Settings(), lookup=lookup), 0.5)) for lookup in (fails, again)]
    assert kinds == [Permanent, Transient]
    assert type(failure(HOME, ImageUrlClient(Settings(), lookup=takes_too_long), 0.2)) is Transient


def test_the_checked_address_is_the_one_that_is_dialled() -> None:
    nat, lookup = Nat(), Answers((PUBLIC,), ("127.0.0.1",))
    failure(HOME, ImageUrlClient(Settings(), lookup=lookup, dial=nat))
    assert (lookup.asked, nat.dialled) == (1, [PUBLIC])


@pytest.mark.parametrize("secret", ["signature=s3cret", "u:s3cret@", "/s3cret"])
def test_no_message_repeats_what_a_url_holds_beside_its_host(secret: str) -> None:
    with bad_receiver(answers(404)) as server:
        for url in (
            f"{server.url}?{secret}",
            f"http://{secret}127.0.0.1/",
            f"ftp://x/?{secret}",
            f"{server.url}/{secret}",
        ):
            assert "s3cret" not in failure(url).detail


# --- through an egress proxy


@pytest.fixture
def image_server() -> Iterator[BadReceiver]:
    with bad_receiver(answers(200, body=PNG)) as server:
        yield server


def test_the_proxy_leads_to_the_judged_address(image_server: BadReceiver) -> None:
    with connect_proxy(image_server.port) as proxy:
        settings = Settings(image_urls=True, image_url_http=True, image_url_proxy=proxy.url)
        assert get("http://images.example/a", ImageUrlClient(settings, lookup=looks_up(PUBLIC), dial=Nat())) == PNG
    assert proxy.authorities == [f"{PUBLIC}:80"]

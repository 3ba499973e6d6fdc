"""One POST to receivers of every kind: bounded in time and bytes, and never to an address that is not permitted."""

import base64
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.outbound.ssrf import Lookup
from shared.settings.roles import Settings
from tests import bad_receivers
from tests.bad_receivers import Behave, answers, bad_receiver, drips, floods, hangs_up, is_silent, says
from tests.connect_proxy import connect_proxy
from tests.outbound import LEADS_HOME, Answers, Nat, fails, spied_connections, takes_too_long
from tests.unit.shared.outbound.test_ssrf import LITERALS, PUBLIC, REFUSED_BY_TEXT, looks_up
from workers.webhooks import client as module
from workers.webhooks.client import MAX_BODY_BYTES, DeliveryResponse, WebhookClient

OTHER = "93.184.215.15"
LOOPBACK = Settings(webhook_allow=(ip_network("127.0.0.0/8"), ip_network("::1/128")), webhook_timeout=1)
HOME = "https://receiver.example/hook"


@pytest.fixture
def connections() -> Iterator[list[object]]:
    with spied_connections() as seen:
        yield seen


def post(url: str, client: WebhookClient | None = None, body: bytes = b"{}", keyless: bool = False) -> DeliveryResponse:
    return (client or WebhookClient(LOOPBACK)).post(url, body, {"webhook-id": "msg_1"}, keyless=keyless)


# --- what is sent


def test_a_message_is_posted_whole_and_the_answer_read() -> None:
    with bad_receiver(answers(200, body=b"thanks")) as receiver:
        answer = post(receiver.url + "?a=b", body='{"é":1}'.encode())
    assert (answer.status, answer.body, answer.error) == (200, b"thanks", None)
    assert answer.seconds > 0
    (request,) = receiver.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /hook?a=b http/1.1"
    assert body == '{"é":1}'.encode()
    assert {b"webhook-id: msg_1", b"connection: close", f"host: 127.0.0.1:{receiver.port}".encode()} <= set(lines)


def test_proxy_variables_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with bad_receiver(answers(200)) as receiver, bad_receiver(answers(200)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(receiver.url).status == 200
    assert proxy.connections == 0


def test_every_attempt_is_a_connection_of_its_own() -> None:
    with bad_receiver(answers(200)) as receiver:
        client = WebhookClient(LOOPBACK)
        assert [post(receiver.url, client).status for _ in range(3)] == [200, 200, 200]
    assert receiver.connections == 3


# --- receivers of every kind


@pytest.mark.parametrize("status", [200, 204, 205, 299, 404, 410, 429, 500, 503])
def test_a_status_is_told_as_it_is(status: int) -> None:
    with bad_receiver(answers(status, "retry-after: 120\r\n")) as receiver:
        answer = post(receiver.url)
    assert (answer.status, answer.retry_after, answer.error) == (status, "120", None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with bad_receiver(answers(200)) as home, bad_receiver(answers(status, f"location: {home.url}\r\n")) as receiver:
        assert post(receiver.url).status == status
    assert home.connections == 0


SLOW = {
    "says nothing": is_silent,
    "drips a status line": drips(b"HTTP/1.1 2", b"0"),
    "drips headers": drips(bad_receivers.LINE, b"x: y\r\n"),
    "drips interim answers": drips(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


@pytest.mark.parametrize("behave", SLOW.values(), ids=SLOW)
def test_who_is_slow_is_left_at_the_deadline(behave: Behave) -> None:
    with bad_receiver(behave) as receiver:
        answer = post(receiver.url)
    assert (answer.status, answer.error) == (None, "no response within 1 s")


def test_who_does_not_take_the_body_is_left_at_the_deadline() -> None:
    with bad_receiver(lambda _: threading.Event().wait(2), reads=False) as receiver:
        answer = post(receiver.url, body=b"x" * (32 << 20))
    assert answer.error == "no response within 1 s"


BROKEN = {
    "endless header": floods(bad_receivers.LINE + b"x: ", b"y" * 1000),
    "endless headers": floods(bad_receivers.LINE, b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
    "flood of interim answers": floods(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "flood of 100": floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "HTTP/0.9": says(b"<html>thanks</html>"),
    "another protocol": says(b"-ERR unknown command 'POST'\r\n"),
    "zeros": floods(b"", b"\0" * 1000),
    "hangs up": hangs_up,
    "two lengths": says(bad_receivers.LINE + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx"),
    "no status": says(b"HTTP/1.1 OK\r\n\r\n"),
}


@pytest.mark.parametrize("behave", BROKEN.values(), ids=BROKEN)
def test_what_is_not_http_is_an_error_and_soon_over(behave: Behave) -> None:
    with bad_receiver(behave) as receiver:
        answer = post(receiver.url)
    assert answer.status is None
    assert answer.error is not None
    assert answer.error.startswith(("HTTP: ", "the connection failed: "))


ENDLESS = {
    "with a length": floods(bad_receivers.LINE + b"content-length: 1000000000\r\n\r\n", b"x" * 1000),
    "until closed": floods(bad_receivers.LINE + b"\r\n", b"x" * 1000),
    "in chunks": floods(bad_receivers.LINE + b"transfer-encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
}


@pytest.mark.parametrize("behave", ENDLESS.values(), ids=ENDLESS)
def test_of_an_endless_body_only_the_start_is_read(behave: Behave) -> None:
    with bad_receiver(behave) as receiver:
        answer = post(receiver.url)
    assert (answer.status, answer.body) == (200, b"x" * MAX_BODY_BYTES)


def test_a_bomb_is_not_unpacked() -> None:
    with bad_receiver(answers(200, "content-encoding: gzip\r\n", b"\x1f\x8b\x08 not even gzip")) as receiver:
        assert post(receiver.url).body == b"\x1f\x8b\x08 not even gzip"


BODIES = {
    "slow": drips(bad_receivers.LINE + b"content-length: 9999\r\n\r\n", b"x"),
    "cut": says(bad_receivers.LINE + b"content-length: 9999\r\n\r\nxxx"),
    "broken": says(bad_receivers.LINE + b"transfer-encoding: chunked\r\n\r\n3\r\nxxx\r\nnonsense"),
}


@pytest.mark.timeout(60)  # far below the attempt's own deadline here
@pytest.mark.parametrize("behave", BODIES.values(), ids=BODIES)
def test_once_there_is_a_status_the_body_changes_nothing(behave: Behave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", 0.2)
    patient = LOOPBACK.model_copy(update={"webhook_timeout": 600})
    with bad_receiver(behave) as receiver:
        answer = post(receiver.url, WebhookClient(patient))
    assert (answer.status, answer.error) == (200, None)
    assert set(answer.body) == {ord("x")}


def test_a_closed_port_is_told_as_such() -> None:
    with bad_receiver(hangs_up) as receiver:
        pass
    assert post(receiver.url).error == "the connection failed: Connection refused"


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    with bad_receiver(answers(204)) as receiver:
        client = WebhookClient(LOOPBACK, lookup=looks_up("127.0.0.2", "127.0.0.1"))
        assert post(f"http://receiver.example:{receiver.port}/", client).status == 204


# --- where it may go


@pytest.mark.parametrize("url", REFUSED_BY_TEXT, ids=lambda url: ascii(url)[:60])
def test_a_url_refused_by_its_text_is_neither_looked_up_nor_dialled(url: str) -> None:
    nat, lookup = Nat(), Answers((PUBLIC,))
    answer = post(url, WebhookClient(Settings(), lookup=lookup, dial=nat))
    assert answer.error is not None
    assert (answer.status, lookup.asked, nat.dialled) == (None, 0, [])


@pytest.mark.parametrize("host", LITERALS)
def test_a_host_that_leads_home_is_not_dialled(host: str) -> None:
    nat = Nat()
    answer = post(f"https://{host}/", WebhookClient(Settings(), dial=nat))
    assert answer.error is not None
    assert answer.error.startswith("the webhook ")
    assert nat.dialled == []


def test_a_name_that_was_public_is_checked_again_at_every_attempt() -> None:
    nat, lookup = Nat(), Answers((PUBLIC,), ("127.0.0.1",), ("169.254.169.254",), (OTHER,))
    client = WebhookClient(Settings(), lookup=lookup, dial=nat)
    for _ in range(4):
        post(HOME, client)
    assert lookup.asked == 4  # one look-up for each attempt: none between the check and the connection
    assert nat.dialled == [PUBLIC, OTHER]


@pytest.mark.parametrize("bad", ["10.0.0.1", "::1", "fd00:ec2::254", "::ffff:127.0.0.1", "168.63.129.16"])
def test_one_private_address_among_public_ones_is_enough_to_refuse(bad: str) -> None:
    nat = Nat()
    post(HOME, WebhookClient(Settings(), lookup=looks_up(PUBLIC, bad), dial=nat))
    post(HOME, WebhookClient(Settings(), lookup=looks_up(bad, PUBLIC), dial=nat))
    assert nat.dialled == []


@pytest.mark.parametrize("lookup", [fails, takes_too_long])
def test_a_name_that_is_not_found_or_not_in_time_is_an_error_and_nothing_is_dialled(lookup: Lookup) -> None:
    nat = Nat()
    answer = post(HOME, WebhookClient(Settings(webhook_timeout=0.5), lookup=lookup, dial=nat))
    assert answer.error is not None
    assert nat.dialled == []


@pytest.mark.parametrize("url", [*REFUSED_BY_TEXT, *(f"https://{host}/" for host in LITERALS)], ids=ascii)
def test_no_socket_is_connected_for_a_url_that_is_refused(url: str, connections: list[object]) -> None:
    assert post(url, WebhookClient(Settings())).error is not None
    assert connections == []


@pytest.mark.parametrize("name", LEADS_HOME)
def test_no_socket_is_connected_for_a_name_that_leads_home(name: str, connections: list[object]) -> None:
    client = WebhookClient(Settings(webhook_timeout=0.5), lookup=LEADS_HOME[name]())
    assert post(HOME, client).error is not None
    assert connections == []


def test_the_spy_sees_a_connection(connections: list[object]) -> None:
    with bad_receiver(answers(204)) as receiver:
        post(receiver.url)
        assert ("127.0.0.1", receiver.port) in connections


def test_without_keys_loopback_is_called_and_with_keys_it_is_not() -> None:
    with bad_receiver(answers(204)) as receiver:
        client = WebhookClient(Settings())
        assert post(receiver.url, client, keyless=True).status == 204
        assert post(receiver.url, client, keyless=False).status is None
    assert receiver.connections == 1


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority `ca.pem` and certificates that it signed: good, expired, of another name."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority", "-days", "30",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name, alternative, days in (
        ("good", "DNS:receiver.example", "20"),
        ("expired", "DNS:receiver.example", "-1"),
        ("other", "DNS:other.example", "20"),
        ("address", f"IP:{PUBLIC}", "20"),
    ):
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem",
                "-days", days, "-extfile", f"{name}.ext")  # fmt: skip
    openssl("req", "-x509", *key, "-keyout", "self.key", "-out", "self.pem", "-subj", "/CN=receiver.example",
            "-addext", "subjectAltName=DNS:receiver.example", "-days", "20")  # fmt: skip
    return folder


@pytest.fixture
def at_home(certificates: Path) -> Iterator["AtHome"]:
    with ExitStack() as stack:
        yield AtHome(certificates, stack)


class AtHome:
    """receiver.example at a public address, led to a TLS server on loopback."""

    def __init__(self, certificates: Path, stack: ExitStack) -> None:
        self._certificates = certificates
        self._stack = stack
        self.nat = Nat()

    def serve(self, certificate: str, behave: Behave = is_silent) -> bad_receivers.BadReceiver:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificates / f"{certificate}.pem", self._certificates / f"{certificate}.key")
        receiver = self._stack.enter_context(bad_receiver(behave, tls=context))
        self.nat.port = receiver.port
        return receiver

    def post(self, url: str = HOME) -> DeliveryResponse:
        trusted = ssl.create_default_context(cafile=self._certificates / "ca.pem")
        settings = Settings(webhook_timeout=1)
        return post(url, WebhookClient(settings, lookup=looks_up(PUBLIC), dial=self.nat, tls=trusted))


def test_the_checked_address_is_called_by_the_names_tls(at_home: AtHome) -> None:
    receiver = at_home.serve("good", answers(204))
    assert at_home.post().status == 204
    assert at_home.nat.dialled == [PUBLIC]
    assert receiver.names == ["receiver.example"]
    assert b"host: receiver.example\r\n" in receiver.requests[0].lower()


def test_an_address_is_called_by_a_certificate_of_the_address(at_home: AtHome) -> None:
    at_home.serve("address", answers(204))
    assert at_home.post(f"https://{PUBLIC}/").status == 204


@pytest.mark.parametrize(
    ("certificate", "told"),
    [("self", "self-signed"), ("expired", "expired"), ("other", "Hostname mismatch"), ("address", "Hostname mismatch")],
)
def test_a_certificate_that_is_not_the_receivers_gets_no_message(at_home: AtHome, certificate: str, told: str) -> None:
    receiver = at_home.serve(certificate, answers(204))
    answer = at_home.post()
    assert answer.status is None
    assert answer.error is not None
    assert told in answer.error
    assert not any(receiver.requests)


def test_a_plain_server_behind_https_is_an_error(at_home: AtHome) -> None:
    with bad_receiver(says(b"HTTP/1.1 200 OK\r\n\r\n"), reads=False) as receiver:
        at_home.nat.port = receiver.port
        answer = at_home.post()
    assert answer.error is not None
    assert answer.error.startswith("TLS: ")


def test_a_handshake_that_never_ends_is_left_at_the_deadline(at_home: AtHome) -> None:
    with bad_receiver(drips(b"\x16\x03\x03\x40\x00", b"\x00"), reads=False) as receiver:
        at_home.nat.port = receiver.port
        answer = at_home.post()
    assert answer.error == "no response within 1 s"


def test_a_private_authority_is_trusted_where_the_settings_name_its_file(at_home: AtHome, certificates: Path) -> None:
    at_home.serve("good", answers(204))

    def status(**changes: Any) -> int | None:
        settings = Settings(webhook_timeout=1, **changes)
        return post(HOME, WebhookClient(settings, lookup=looks_up(PUBLIC), dial=at_home.nat)).status

    assert status() is None
    assert status(webhook_ca_file=str(certificates / "ca.pem")) == 204


@pytest.mark.parametrize("name", ["absent.pem", "ca.key", "."])
def test_a_file_without_authorities_is_refused_at_the_start_by_its_variable(certificates: Path, name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(webhook_ca_file=str(certificates / name))
    (problem,) = refused.value.errors()
    assert problem["loc"] == ("webhook_ca_file",)


# --- through an egress proxy


class BehindProxy:
    """receiver.example at a public address that only a proxy reaches."""

    def __init__(self, at_home: AtHome, certificates: Path, stack: ExitStack) -> None:
        self.receiver = at_home.serve("good", answers(204))
        self.proxy = stack.enter_context(connect_proxy(self.receiver.port))
        self.nat = Nat()  # leads nowhere
        self._ca = str(certificates / "ca.pem")

    def post(self, *addresses: str, url: str = HOME, **changes: Any) -> DeliveryResponse:
        proxy = changes.pop("webhook_proxy", self.proxy.url)
        settings = Settings(webhook_timeout=1, webhook_ca_file=self._ca, webhook_proxy=proxy, **changes)
        return post(url, WebhookClient(settings, lookup=looks_up(*addresses or (PUBLIC,)), dial=self.nat))


@pytest.fixture
def behind(at_home: AtHome, certificates: Path) -> Iterator[BehindProxy]:
    with ExitStack() as stack:
        yield BehindProxy(at_home, certificates, stack)


def test_the_proxy_leads_to_the_judged_address_and_tls_ends_at_the_receiver(behind: BehindProxy) -> None:
    assert behind.post().status == 204
    assert behind.proxy.authorities == [f"{PUBLIC}:443"]
    assert behind.receiver.names == ["receiver.example"]
    assert behind.nat.dialled == []


def test_an_ipv6_address_is_written_in_brackets(behind: BehindProxy) -> None:
    assert behind.post("2606:4700::1111").status == 204
    assert behind.proxy.authorities == ["[2606:4700::1111]:443"]


def test_the_proxy_is_asked_by_name_where_the_settings_say_so(behind: BehindProxy) -> None:
    assert behind.post(webhook_proxy_by_name=True).status == 204
    assert behind.proxy.authorities == ["receiver.example:443"]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "64:ff9b::a00:1"])
def test_the_guard_judges_before_the_proxy_is_asked(behind: BehindProxy, address: str, by_name: bool) -> None:
    answer = behind.post(PUBLIC, address, webhook_proxy_by_name=by_name)
    assert answer.status is None
    assert behind.proxy.heads == []


def test_allowed_networks_are_called_directly(behind: BehindProxy) -> None:
    behind.nat.port = behind.receiver.port
    assert behind.post("10.0.0.1", webhook_allow=(ip_network("10.0.0.0/8"),)).status == 204
    assert behind.nat.dialled == ["10.0.0.1"]
    assert behind.proxy.heads == []


def test_the_proxys_credentials_are_sent_and_told_nowhere(behind: BehindProxy) -> None:
    url = behind.proxy.url.replace("http://", "http://us%40er:s3cret@")
    behind.proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    answer = behind.post(webhook_proxy=url)
    assert answer.error == "the connection failed: the egress proxy answered 407"
    encoded = base64.b64encode(b"us@er:s3cret").decode()
    assert f"Proxy-Authorization: Basic {encoded}" in behind.proxy.heads[0]
    shown = repr(Settings(webhook_proxy=url)) + repr(Settings(webhook_proxy=url).webhook_proxy_endpoint)
    assert "s3cret" not in shown
    assert encoded not in shown


PROXY_ANSWERS = {
    "refuses": (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", "the egress proxy answered 403"),
    "is no proxy": (b"SSH-2.0-OpenSSH\r\n\r\n", "the egress proxy answered no HTTP"),
    "hangs up": (b"HTTP/1.1 2", "the egress proxy answered no HTTP"),
    "floods": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (64 << 10), "the egress proxy answered no HTTP"),
    "speaks first": (b"HTTP/1.1 200 OK\r\n\r\nhello", "the egress proxy sent more than its answer"),
}


@pytest.mark.parametrize(("said", "error"), PROXY_ANSWERS.values(), ids=PROXY_ANSWERS)
def test_a_proxy_that_opens_no_tunnel_is_named(behind: BehindProxy, said: bytes, error: str) -> None:
    behind.proxy.answer = said
    answer = behind.post()
    assert (answer.status, answer.error) == (None, f"the connection failed: {error}")
    assert not behind.receiver.requests


def test_a_proxy_that_is_not_there_is_named(behind: BehindProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    answer = behind.post(webhook_proxy=url)
    assert answer.error == "the connection failed: the egress proxy can't be reached: Connection refused"


def test_a_proxy_that_does_not_answer_is_left_at_the_deadline(behind: BehindProxy) -> None:
    with bad_receiver(lambda _: threading.Event().wait(2), reads=False) as silent:
        answer = behind.post(webhook_proxy=f"http://127.0.0.1:{silent.port}")
    assert answer.error == "no response within 1 s"

"""The guard of outbound calls, by the policy of webhooks: what it must never call, and what it must not refuse."""

import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from shared.errors import WebhookRefused
from shared.outbound.ssrf import Lookup, Target, check_url, permitted, refuse_unless_all_permitted, resolve
from shared.settings.roles import Settings
from shared.webhooks.url_policy import webhook_policy

SETTINGS = Settings()
POLICY = webhook_policy(SETTINGS, keyless=False)
TARGET = Target("https", "example.org", 443, "/")
PUBLIC = "93.184.215.14"

#: Strings that the text alone gives away.
REFUSED_BY_TEXT = [
    "",
    "example.org/hook",
    "//example.org/hook",
    "http://example.org/",
    "file:///etc/passwd",
    "gopher://example.org:70/_x",
    "ftp://example.org/",
    "javascript:alert(1)",
    "https:///hook",
    "https:hook",
    "https://user:secret@example.org/",
    "https://user@example.org/",
    "https://example.org\\@127.0.0.1/",
    "https://example.org/#fragment",
    "https://example.org/a b",
    "https://example.org/\r\nX-Injected: 1",
    "https://example.org/\x00",
    "https://example.org/\u2028",
    "https://example.org/\ud800",
    "\thttps://example.org/",
    "https://localhost./",
    "https://example..org/",
    "https://%31%32%37.0.0.1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://ⅼocalhost/",  # U+217C, an l to some
    "https://exam\u00adple.org/",
    "https://[fe80::1%25eth0]/",
    "https://[::1/",
    "https://example.org:22/",
    "https://example.org:25/",
    "https://example.org:6379/",
    "https://example.org:0/",
    "https://example.org:65536/",
    "https://example.org:x/",
    "https://example.org/" + "x" * 5000,
    "https://example.org/" + "ä" * 1000,  # 6,000 characters once encoded
    "https://" + "x" * 64 + ".org/",
]

#: Strings that are fine as text and lie about where they lead.
LITERALS = [
    "localhost",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127。0。0。1",
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "168.63.129.16",
    "192.0.0.192",
    "100.100.100.200",
    "0.0.0.0",
    "[::]",
]

NOT_PUBLIC = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1"),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:2::1",
    ),
    *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "3fff:fff::1"),
    *("5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
]


def looks_up(*addresses: str) -> Lookup:
    """Return a getaddrinfo that finds `addresses` for every name."""

    def lookup(host: str, port: int, **_: Any) -> Sequence[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return lookup


def vet(url: str, *addresses: str, settings: Settings = SETTINGS, keyless: bool = False) -> None:
    policy = webhook_policy(settings, keyless)
    target = check_url(url, policy)
    found = resolve(target, policy, 1, looks_up(*addresses) if addresses else None)
    refuse_unless_all_permitted(target, found, policy)


@pytest.mark.parametrize("url", REFUSED_BY_TEXT, ids=lambda url: ascii(url)[:60])
def test_a_url_whose_text_is_wrong_is_refused_and_the_text_says_why(url: str) -> None:
    with pytest.raises(WebhookRefused) as refusal:
        check_url(url, POLICY)
    assert len(refusal.value.detail) < 400
    assert refusal.value.detail.isprintable()


@pytest.mark.parametrize("host", LITERALS)
def test_a_host_that_leads_home_is_refused_by_its_address(host: str) -> None:
    with pytest.raises(WebhookRefused):
        vet(f"https://{host}/")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_not_permitted(address: str) -> None:
    assert not permitted(ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_is_permitted(address: str) -> None:
    assert permitted(ip_address(address), ())


def test_an_allowed_network_is_permitted_and_its_neighbour_is_not() -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert permitted(ip_address("10.1.2.3"), networks)
    assert permitted(ip_address("::ffff:10.1.2.3"), networks)
    assert permitted(ip_address("fd00::1"), networks)
    assert not permitted(ip_address("10.2.0.1"), networks)


def test_behind_nat64_the_address_inside_is_judged_also_where_networks_are_allowed() -> None:
    assert permitted(ip_address("64:ff9b::a01:203"), (ip_network("10.1.0.0/16"),))
    assert not permitted(ip_address("64:ff9b::a00:1"), (ip_network("64:ff9b::/96"),))
    vet("https://example.org/", "64:ff9b::808:808")
    with pytest.raises(WebhookRefused):
        vet("https://example.org/", "64:ff9b::808:808", "64:ff9b::a00:1")


def test_a_url_is_taken_apart_as_it_will_be_sent() -> None:
    target = check_url("https://Bücher.example:8443/hook/ä?q=ü", POLICY)
    assert (target.scheme, target.host, target.port) == ("https", "xn--bcher-kva.example", 8443)
    assert target.path == "/hook/%C3%A4?q=%C3%BC"
    assert target.netloc == "xn--bcher-kva.example:8443"
    assert check_url("https://[2606:4700::1111]", POLICY).url == "https://[2606:4700::1111]:443/"


def test_one_receiver_has_one_name_however_it_is_written() -> None:
    written = ("https://Example.org", "https://example.org:443/a", "HTTPS://EXAMPLE.ORG/b?c")
    assert {check_url(url, POLICY).netloc for url in written} == {"example.org:443"}


def test_ports_are_those_of_the_settings() -> None:
    policy = webhook_policy(Settings(webhook_ports=(8080,)), keyless=False)
    assert check_url("https://example.org:8080/", policy).port == 8080
    with pytest.raises(WebhookRefused, match="port 443"):
        check_url("https://example.org/", policy)


def test_without_keys_loopback_may_be_called_by_http_and_nothing_else_may() -> None:
    vet("http://127.0.0.1:8080/hook", "127.0.0.1", keyless=True)
    vet("http://localhost:8080/hook", "127.0.0.1", "::1", keyless=True)
    for address in ("10.0.0.1", "169.254.169.254", PUBLIC):
        with pytest.raises(WebhookRefused):
            vet("http://example.org:8080/", address, keyless=True)
    with pytest.raises(WebhookRefused, match="https"):
        check_url("http://127.0.0.1:8080/hook", POLICY)


def test_http_reaches_allowed_networks_and_with_the_setting_public_addresses() -> None:
    allowed = Settings(webhook_allow=(ip_network("10.0.0.0/8"),))
    vet("http://receiver.internal/", "10.1.2.3", settings=allowed)
    with pytest.raises(WebhookRefused):
        vet("http://example.org/", PUBLIC, settings=allowed)
    vet("http://example.org/", PUBLIC, settings=Settings(webhook_http=True))
    with pytest.raises(WebhookRefused):
        vet("http://example.org/", "10.1.2.3", settings=Settings(webhook_http=True))


@pytest.mark.parametrize("bad", ["127.0.0.1", "fd00:ec2::254", "168.63.129.16"])
def test_one_bad_address_among_good_ones_refuses_the_name(bad: str) -> None:
    vet("https://example.org/", PUBLIC, "2606:4700::1111")
    for answers in ((PUBLIC, bad), (bad, PUBLIC)):
        with pytest.raises(WebhookRefused):
            vet("https://example.org/", *answers)


def test_a_name_that_is_not_there_and_one_that_leads_home_are_refused_in_the_same_words() -> None:
    def nowhere(*_: Any, **__: Any) -> Sequence[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(WebhookRefused) as absent:
        resolve(TARGET, POLICY, 1, nowhere)
    with pytest.raises(WebhookRefused) as private:
        vet("https://example.org/", "10.0.0.1")
    with pytest.raises(WebhookRefused) as empty:
        resolve(TARGET, POLICY, 1, looks_up())
    assert absent.value.detail == private.value.detail == empty.value.detail


def test_a_resolver_that_does_not_answer_is_waited_for_no_longer_than_the_deadline() -> None:
    answer = threading.Event()

    def slow(*_: Any, **__: Any) -> Sequence[tuple[Any, ...]]:
        answer.wait(30)
        return []

    with pytest.raises(WebhookRefused):
        resolve(TARGET, POLICY, 0.05, slow)
    answer.set()


def test_a_public_address_of_this_very_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.outbound.ssrf._is_ours", lambda address: str(address) == PUBLIC)
    with pytest.raises(WebhookRefused, match=r"this machine's own address; to call it, list (\S+) in") as refused:
        vet("https://example.org/", PUBLIC)
    vet("https://example.org/", PUBLIC, settings=advised(refused.value.detail))
    with pytest.raises(WebhookRefused, match="this machine's own address"):
        vet("https://example.org/", f"64:ff9b::{int(ip_address(PUBLIC)):x}".replace("5db8d70e", "5db8:d70e"))


def advised(text: str) -> Settings:
    """The settings that a refusal names, as its reader would set them."""
    if found := re.search(r"list (\S+) in TILEQ_WEBHOOK_ALLOW", text):
        return Settings(webhook_allow=(ip_network(found[1]),))
    if found := re.search(r"port (\d+).*TILEQ_WEBHOOK_PORTS", text):
        return Settings(webhook_ports=(int(found[1]),))
    assert "TILEQ_WEBHOOK_HTTP=true" in text
    return Settings(webhook_http=True)


@pytest.mark.parametrize("url", ["http://example.org/hook", "https://example.org:6379/hook"])
def test_what_a_refusal_advises_is_a_way_that_works(url: str) -> None:
    with pytest.raises(WebhookRefused) as refused:
        vet(url, PUBLIC)
    vet(url, PUBLIC, settings=advised(refused.value.detail))


def test_http_to_a_public_address_says_why_also_where_a_network_is_allowed() -> None:
    allowed = Settings(webhook_allow=(ip_network("10.0.0.0/8"),))
    with pytest.raises(WebhookRefused, match="by https:// only") as refused:
        vet("http://example.org/", PUBLIC, settings=allowed)
    vet("http://example.org/", PUBLIC, settings=advised(refused.value.detail))


def test_the_networks_that_may_be_called_without_keys_include_loopback() -> None:
    assert not POLICY.allow
    assert ip_address("127.0.0.1") in webhook_policy(SETTINGS, keyless=True).allow[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "2606:4700::1111"])
def test_an_address_needs_no_look_up(host: str) -> None:
    def lookup(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise AssertionError("asked")

    assert resolve(replace(TARGET, host=host), POLICY, 1, lookup) == [ip_address(host)]

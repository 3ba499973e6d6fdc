"""The URL of an egress proxy."""

import pytest
from pydantic import ValidationError

from shared.outbound.proxy import ProxyEndpoint, parse_proxy_url
from shared.settings.roles import Settings


def test_host_port_and_credentials_are_read() -> None:
    assert parse_proxy_url("http://proxy.example:3128/") == ProxyEndpoint("proxy.example", 3128)
    assert parse_proxy_url("http://[fd00::1]:3128") == ProxyEndpoint("fd00::1", 3128)
    assert parse_proxy_url("http://a:b%3Ac@h:1").authorization == "Basic YTpiOmM="


@pytest.mark.parametrize(
    "url",
    [
        "https://u:s3cret@proxy:3128",
        "socks5://u:s3cret@proxy:1080",
        "u:s3cret@proxy:3128",
        "http://u:s3cret@proxy",
        "http://u:s3cret@:3128",
        "http://u:s3cret@proxy:port",
        "http://u:s3cret@proxy:3128/path",
        "http://u:s3cret@proxy:3128?x=y",
        "http://u:s3cret@[::1:3128",
    ],
)
def test_what_is_no_http_proxy_is_refused_at_the_start_without_its_secret(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(webhook_proxy=url)
    (problem,) = refused.value.errors(include_input=False)
    assert "s3cret" not in problem["msg"]
    assert problem["loc"] == ("webhook_proxy",)

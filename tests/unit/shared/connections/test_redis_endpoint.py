"""What a Redis URL may say, and what is said of one that cannot be honoured."""

import pytest

from shared.connections.redis_endpoint import RedisEndpoint, TlsOptions, parse_redis_url


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://store", RedisEndpoint(host="store")),
        ("redis://store/", RedisEndpoint(host="store")),
        ("redis://store:7000/3", RedisEndpoint(host="store", port=7000, db=3)),
        ("redis://store?db=3", RedisEndpoint(host="store", db=3)),
        ("redis://:secret@store", RedisEndpoint(host="store", password="secret")),
        ("redis://:a;b%40%2F@store", RedisEndpoint(host="store", password="a;b@/")),
        ("redis://app:secret@[fd00::1]:7000", RedisEndpoint("fd00::1", 7000, username="app", password="secret")),
        ("redis://app:@store", RedisEndpoint(host="store", username="app", password="")),
        ("rediss://store", RedisEndpoint(host="store", tls=TlsOptions())),
        ("REDISS://store", RedisEndpoint(host="store", tls=TlsOptions())),
        (
            "rediss://store?ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
            RedisEndpoint(host="store", tls=TlsOptions(ca_file="/ca.pem", check_hostname=False)),
        ),
        (
            "rediss://store?ssl_cert_reqs=CERT_NONE",
            RedisEndpoint(host="store", tls=TlsOptions(verify=False, check_hostname=False)),
        ),
        ("unix:///run/valkey.sock", RedisEndpoint(path="/run/valkey.sock")),
        (
            "unix://app:secret@/run/valkey.sock?db=2",
            RedisEndpoint(path="/run/valkey.sock", db=2, username="app", password="secret"),
        ),
        ("unix:///run/valkey.sock?password=s", RedisEndpoint(path="/run/valkey.sock", password="s")),
        (
            "redis-sentinel://:secret@a:26380,b,[fd00::1]/mymaster/2",
            RedisEndpoint(
                db=2,
                password="secret",
                sentinels=(("a", 26380), ("b", 26379), ("fd00::1", 26379)),
                service="mymaster",
            ),
        ),
        (
            "rediss+sentinel://a/mymaster",
            RedisEndpoint(sentinels=(("a", 26379),), service="mymaster", tls=TlsOptions()),
        ),
    ],
)
def test_every_part_of_a_url_is_honoured(url: str, endpoint: RedisEndpoint) -> None:
    assert parse_redis_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("store:6379", "must begin with redis://"),
        ("http://store", "must begin with redis://"),
        ("redis://", "names no host"),
        ("redis://:secret", "names no host"),
        ("redis://store:port/0", "has a port that is not a number"),
        ("redis://store/jobs", "has a path that is no database number"),
        ("redis://store/1?db=2", "names two databases"),
        ("redis://secret@store", "names a user without a password"),
        ("redis://a,b/0", "names several hosts; that is for redis-sentinel://"),
        ("sentinel://a;sentinel://b/0", "names several URLs; write Sentinel's nodes as"),
        ("redis-sentinel://a,b", "names no service of Sentinel"),
        ("unix://run/valkey.sock", "must name the socket by an absolute path"),
        ("redis://store?socket_timeout=5", "`socket_timeout`, which tileq does not take: TILEQ_REDIS_TIMEOUT"),
        ("redis://store?protocol=3", "`protocol`, which tileq does not take: leave it out"),
        ("redis://store?health_check_interval=30", "`health_check_interval`, which tileq does not take: leave it out"),
        ("redis://store?ssl=true", "`ssl`, which tileq does not take: begin the URL with rediss://"),
        ("redis://store?ssl_ca_certs=/ca.pem", "`ssl_ca_certs`, but no TLS: begin it with rediss://"),
        ("redis://store?password=secret", "`password`; write redis://user:password@host"),
        ("rediss://store?ssl_cert_reqs=optional", "neither `required` nor `none`"),
        ("redis://store ", "has white space in its host"),
        ("redis-sentinel://a, b/service", "has white space in its host"),
        ("redis://store?db=1&db=1", "has the option `db` twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_cure(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_redis_url(url)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@store/0",
        "redis://:hunter2?x@store/0",
        "redis://:hunter2#x@store/0",
        "redis://:x?hunter2=1@store/0",
        "redis://:[hunter2@store/0",
        "redis://hunter2@store/0",
        "redis://:hunter2@store:x",
        "redis://app:hunter2@store/0?protocol=3",
    ],
)
def test_no_refusal_holds_a_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_redis_url(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    ["rediss://app:hunter2@store:7000/1", "unix://:hunter2@/run/s.sock", "redis-sentinel://:hunter2@a,b/mymaster/1"],
)
def test_an_endpoint_shows_no_password(url: str) -> None:
    endpoint = parse_redis_url(url, sentinel_password="hunter2")
    assert "hunter2" not in endpoint.address + repr(endpoint)
    reparsed = parse_redis_url(endpoint.address)
    assert (reparsed.host, reparsed.path, reparsed.sentinels) == (endpoint.host, endpoint.path, endpoint.sentinels)

"""A Redis-compatible server as one URL names it, parsed once for every client library.

redis://[user[:password]@]host[:port][/db]                               TCP
rediss://…                                                               TLS; certificate and host name are verified
unix://[user[:password]@]/path/to/socket[?db=N]                          a socket of this machine
redis-sentinel://[user[:password]@]host[:port],host[:port]/service[/db]  the primary that Sentinel names
rediss-sentinel://…                                                      the same with TLS, on the nodes of Sentinel too

redis-py, its asyncio client and kombu each read such a URL in their own way and drop or pass on what they do not know.
Here every part is honoured, or refused by name; no message holds a user name or password.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl, unquote, urlsplit

REDIS_PORT, SENTINEL_PORT = 6379, 26379

_SENTINEL_SCHEMES = {"redis-sentinel", "redis+sentinel", "sentinel", "rediss-sentinel", "rediss+sentinel"}
_SCHEMES = {"redis", "rediss", "unix"} | _SENTINEL_SCHEMES
_TLS_SCHEMES = {"rediss", "rediss-sentinel", "rediss+sentinel"}
_TLS_OPTIONS = {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
_ACCOUNT_OPTIONS = {"username", "password"}

#: Options that client libraries know in a URL → what to do instead.
_CURES = {
    "socket_timeout": "TILEQ_REDIS_TIMEOUT bounds every round trip",
    "socket_connect_timeout": "TILEQ_REDIS_TIMEOUT bounds every round trip",
    "timeout": "TILEQ_REDIS_TIMEOUT bounds every round trip",
    "ssl": "begin the URL with rediss://",
    "tls": "begin the URL with rediss://",
    "visibility_timeout": "it follows from TILEQ_MAX_RUN_WITHIN",
    "global_keyprefix": "set TILEQ_REDIS_PREFIX",
    "master_name": "write redis-sentinel://host:port,host:port/service/0",
    "service_name": "write redis-sentinel://host:port,host:port/service/0",
    "sentinelMasterId": "write redis-sentinel://host:port,host:port/service/0",
}
_NO_CURE = "leave it out"


@dataclass(frozen=True)
class TlsOptions:
    """How the server's certificate is verified, and which one this client presents; files are PEM."""

    ca_file: str = ""  #: authorities trusted instead of the system's
    cert_file: str = ""  #: the client's certificate; it may hold its key too
    key_file: str = ""
    verify: bool = True
    check_hostname: bool = True


@dataclass(frozen=True)
class RedisEndpoint:
    """One server, or, with `sentinels`, the primary of `service`. `tls` None: the link is not encrypted."""

    host: str = ""
    port: int = REDIS_PORT
    path: str = ""  #: of the socket, for `unix://`
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: TlsOptions | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    timeout_s: float = 5.0  #: of one round trip, connecting included

    @property
    def address(self) -> str:
        """URL without user name, password and options, for logs and messages."""
        if self.path:
            return f"unix://{self.path}?db={self.db}"
        scheme = "rediss" if self.tls else "redis"
        if self.sentinels:
            nodes = ",".join(_host_port(host, port) for host, port in self.sentinels)
            return f"{scheme}-sentinel://{nodes}/{self.service}/{self.db}"
        return f"{scheme}://{_host_port(self.host, self.port)}/{self.db}"


def parse_redis_url(
    url: str,
    *,
    tls: TlsOptions | None = None,
    sentinel_username: str | None = None,
    sentinel_password: str | None = None,
    timeout_s: float = 5.0,
) -> RedisEndpoint:
    """Return the endpoint that `url` names; `tls` are the defaults of a URL with TLS.

    Raises `ValueError` with what is wrong and what to write instead.
    """
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise ValueError("must begin with redis://, rediss://, unix:// or redis-sentinel://")
    if ";" in url and "://" in url.rpartition(";")[2]:
        raise ValueError("names several URLs; write Sentinel's nodes as redis-sentinel://host:port,host:port/service/0")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"cannot be read as a URL; {_QUOTING}") from None
    rest = f"{parts.query}#{parts.fragment}" if scheme == "unix" else f"{parts.path}?{parts.query}#{parts.fragment}"
    if "@" in rest or parts.fragment:  # then what looks like an option or a path may be the end of a password
        raise ValueError(f"has an `@` or `#` behind its host; {_QUOTING}")
    options = _options(parts.query, scheme)
    account, _, hosts = parts.netloc.rpartition("@")
    username, password = _account(account, options)
    parsed = {
        "username": username,
        "password": password,
        "tls": _tls_of(options, tls or TlsOptions()) if scheme in _TLS_SCHEMES else None,
        "timeout_s": timeout_s,
    }
    if scheme == "unix":
        if hosts or not parts.path.startswith("/"):
            raise ValueError("must name the socket by an absolute path: unix:///run/valkey.sock")
        return RedisEndpoint(path=unquote(parts.path), db=_db("", options), **parsed)  # type: ignore[arg-type]
    if scheme in _SENTINEL_SCHEMES:
        service, db = _service_and_db(parts.path)
        return RedisEndpoint(
            sentinels=tuple(_node(node, SENTINEL_PORT) for node in hosts.split(",")),
            service=service,
            db=_db(db, options),
            sentinel_username=sentinel_username,
            sentinel_password=sentinel_password,
            **parsed,  # type: ignore[arg-type]
        )
    if "," in hosts:
        raise ValueError("names several hosts; that is for redis-sentinel://host:port,host:port/service/0")
    host, port = _node(hosts, REDIS_PORT)
    return RedisEndpoint(host=host, port=port, db=_db(parts.path[1:], options), **parsed)  # type: ignore[arg-type]


def check_tls_files(tls: TlsOptions) -> None:
    """Raise `ValueError` where a file of `tls` cannot be read, is no PEM, or where certificate and key do not match."""
    context = ssl.create_default_context()
    if tls.ca_file:
        _load("certificate authorities", tls.ca_file, lambda: context.load_verify_locations(tls.ca_file))
    if tls.cert_file:
        name = f"{tls.cert_file} and {tls.key_file}" if tls.key_file else tls.cert_file
        load = partial(context.load_cert_chain, tls.cert_file, tls.key_file or None, password=_no_password)
        _load("client certificate and key", name, load)


def _load(what: str, name: str, load: Callable[[], object]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"the {what} of Redis, {name}, cannot be used: {reason}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password, readable by tileq alone")


_QUOTING = "percent-encode `/`, `?`, `#`, `@` and `:` inside a user name or password"


def _options(query: str, scheme: str) -> dict[str, str]:
    allowed = {"db", "virtual_host"}
    if scheme in _TLS_SCHEMES:
        allowed |= _TLS_OPTIONS
    if scheme == "unix":
        allowed |= _ACCOUNT_OPTIONS
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise ValueError(f"has the option `{name}` twice")
        if name in _TLS_OPTIONS - allowed:
            raise ValueError(f"has the option `{name}`, but no TLS: begin it with rediss://")
        if name in _ACCOUNT_OPTIONS - allowed:
            raise ValueError(f"has the option `{name}`; write {scheme}://user:password@host")
        if name not in allowed:
            raise ValueError(f"has the option `{name[:40]}`, which tileq does not take: {_CURES.get(name, _NO_CURE)}")
        options[name] = value
    return options


def _account(account: str, options: dict[str, str]) -> tuple[str | None, str | None]:
    name, colon, secret = account.partition(":")
    username = unquote(name) or options.get("username")
    password = unquote(secret) if colon else options.get("password")
    if username and password is None:
        raise ValueError("names a user without a password; for a password alone write redis://:password@host")
    return username or None, password if username else password or None


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in text:
        host, _, port = text.rpartition(":")
    if any(character.isspace() for character in host):
        raise ValueError("has white space in its host; leave it out")
    if not host or (":" in host and not text.startswith("[")):
        raise ValueError(f"names no host; {_QUOTING}")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"has a port that is not a number of 1 to 65535; {_QUOTING}")
    return unquote(host), int(port or default_port)


def _service_and_db(path: str) -> tuple[str, str]:
    service, _, db = path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("names no service of Sentinel: redis-sentinel://host:port,host:port/mymaster/0")
    return unquote(service), db


def _db(path: str, options: dict[str, str]) -> int:
    named = {text for text in (path, options.get("db", ""), options.get("virtual_host", "").removeprefix("/")) if text}
    if len(named) > 1:
        raise ValueError("names two databases")
    text = named.pop() if named else "0"
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"has a path that is no database number, such as /0; {_QUOTING}")
    return int(text)


def _tls_of(options: dict[str, str], default: TlsOptions) -> TlsOptions:
    requirement = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if requirement not in ("required", "none"):
        raise ValueError("has the option `ssl_cert_reqs` with a value that is neither `required` nor `none`")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("has the option `ssl_check_hostname` with a value that is neither `true` nor `false`")
    verify = requirement == "required"
    return TlsOptions(
        ca_file=options.get("ssl_ca_certs", default.ca_file),
        cert_file=options.get("ssl_certfile", default.cert_file),
        key_file=options.get("ssl_keyfile", default.key_file),
        verify=verify,
        check_hostname=verify and check in ("true", "1", "yes"),
    )


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

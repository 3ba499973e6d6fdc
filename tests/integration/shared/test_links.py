"""Every link to Redis reaches the server in the same way: redis-py, its asyncio client and kombu."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from shared.broker import WEBHOOK_QUEUE, Hints, make_celery
from shared.connections.redis_client import NotPrimary, connect, connect_async
from shared.connections.redis_endpoint import RedisEndpoint
from shared.settings.roles import Settings
from tests.certificates import Authority
from tests.tcp_proxy import TcpProxy, tcp_proxy
from tests.valkeys import Server, sentinel, valkeys
from tests.waiting import eventually

pytestmark = pytest.mark.integration

PASSWORD = "a;b@c/d#e?f%g"
QUOTED = "a%3Bb%40c%2Fd%23e%3Ff%25g"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey with a user `app` and a socket at `socket_of`."""
    folder = tmp_path_factory.mktemp("links")
    with valkeys(folder, {"unixsocket": str(folder / "s.sock"), "unixsocketperm": "700"}) as (one,):
        words = ("on", f">{PASSWORD}", "~*", "&*", "+@all", "-hello", "-client", "-config", "-info")
        one.admin.execute_command("ACL", "SETUSER", "app", *words)  # type: ignore[no-untyped-call]
        yield one


def socket_of(server: Server) -> str:
    return str(server.admin.config_get("unixsocket")["unixsocket"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


def write_synchronously(endpoint: RedisEndpoint, key: str) -> None:
    with connect(endpoint) as client:
        client.set(key, "1")


def write_asynchronously(endpoint: RedisEndpoint, key: str) -> None:
    async def write() -> None:
        async with connect_async(endpoint) as client:
            await client.set(key, "1")

    asyncio.run(write())


def publish(settings: Settings) -> None:
    """Publish a hint; raise what kombu raises."""
    with make_celery(settings) as app:
        hints = Hints(app)
        hints.depth(WEBHOOK_QUEUE)
        assert hints.deliveries("msg_a")


def use_every_link(settings: Settings) -> None:
    write_synchronously(settings.store_endpoint, f"{settings.redis_prefix}sync")
    write_asynchronously(settings.events_endpoint, f"{settings.redis_prefix}async")
    publish(settings)


def keys_of(server: Server, prefix: str, db: int = 0) -> set[str]:
    with redis.Redis(port=server.port, db=db, decode_responses=True) as admin:
        found = {str(key).removeprefix(prefix) for key in admin.scan_iter(f"{prefix}*")}
        for key in found:
            admin.delete(prefix + key)
    return found


SYNCS_AT_ONCE = {"repl-diskless-sync-delay": "0"}
WRITTEN = {"sync", "async", f"mq:{WEBHOOK_QUEUE}"}


def test_a_user_whom_hello_client_config_and_info_are_denied_is_served(server: Server) -> None:
    use_every_link(Settings(redis_url=f"redis://app:{QUOTED}@127.0.0.1:{server.port}/3", redis_prefix="user:"))
    assert keys_of(server, "user:", db=3) == WRITTEN


def test_a_socket_of_this_machine_is_served(server: Server) -> None:
    use_every_link(Settings(redis_url=f"unix://app:{QUOTED}@{socket_of(server)}?db=2", redis_prefix="socket:"))
    assert keys_of(server, "socket:", db=2) == WRITTEN


def test_tls_verifies_against_the_authority_that_is_set(server: Server, authority: Authority) -> None:
    with tcp_proxy(server.port, authority.server_context("store")) as proxy:
        url = f"rediss://app:{QUOTED}@127.0.0.1:{proxy.port}/0"
        use_every_link(Settings(redis_url=url, redis_ca_file=authority.ca_file, redis_prefix="tls:"))
    assert keys_of(server, "tls:") == WRITTEN


def test_a_client_certificate_is_presented_on_every_link(server: Server, authority: Authority) -> None:
    certificate, key = authority.issue("client", "DNS:tileq")
    with tcp_proxy(server.port, authority.server_context("strict", asks=True)) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        known = Settings(
            redis_url=url,
            redis_ca_file=authority.ca_file,
            redis_cert_file=certificate,
            redis_key_file=key,
            redis_prefix="client:",
        )
        use_every_link(known)
        assert refusals(Settings(redis_url=url, redis_ca_file=authority.ca_file, redis_timeout=1))
    assert keys_of(server, "client:") == WRITTEN


def refusals(settings: Settings) -> list[str]:
    """Use each link; every one must refuse. Return what they said."""
    said = []
    for use in (
        lambda: write_synchronously(settings.store_endpoint, "x"),
        lambda: write_asynchronously(settings.events_endpoint, "x"),
        lambda: publish(settings),
    ):
        with pytest.raises(Exception, match=r".") as refused:
            use()  # type: ignore[no-untyped-call]
        said.append(str(refused.value))
    return said


def with_an_unknown_authority(port: int, authority: Authority) -> Settings:
    del authority
    return Settings(redis_url=f"rediss://:hunter2@127.0.0.1:{port}/0", redis_timeout=1)


def with_another_name(port: int, authority: Authority) -> Settings:
    return Settings(redis_url=f"rediss://:hunter2@localhost:{port}/0", redis_ca_file=authority.ca_file, redis_timeout=1)


@pytest.mark.parametrize("make", [with_an_unknown_authority, with_another_name])
def test_no_link_sends_the_password_to_a_server_that_it_cannot_verify(
    make: Callable[[int, Authority], Settings], server: Server, authority: Authority
) -> None:
    with tcp_proxy(server.port, authority.server_context("wrong")) as proxy:
        said = refusals(make(proxy.port, authority))
        assert all("certificate" in one.lower() for one in said), said
        assert bytes(proxy.received) == b""


def test_verification_is_off_only_where_the_url_says_so(server: Server, authority: Authority) -> None:
    with tcp_proxy(server.port, authority.server_context("unverified")) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=none"
        use_every_link(Settings(redis_url=url, redis_prefix="off:"))
    assert keys_of(server, "off:") == WRITTEN


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_reset_before_a_command_ends_with_the_error_that_clients_retry(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: Server
) -> None:
    async def ping_after_a_reset(proxy: TcpProxy) -> None:
        async with connect_async(RedisEndpoint(host="127.0.0.1", port=proxy.port)) as client:
            link: Any = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            await link.send_command("PING")
            await link.read_response()
            proxy.reset()
            async with asyncio.timeout(10):
                while not link._writer.is_closing():
                    await asyncio.sleep(0)
            await link.send_command("PING")

    with (
        tcp_proxy(server.port) as proxy,
        asyncio.Runner(loop_factory=new_loop) as runner,
        pytest.raises(redis.ConnectionError),
    ):
        runner.run(ping_after_a_reset(proxy))


# --- Failover


class Links:
    """One client of each kind with its connections open, as a process has them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.redis_prefix
        self._loop = asyncio.new_event_loop()
        self._store = connect(settings.store_endpoint)
        self._events = connect_async(settings.events_endpoint)
        self._app = make_celery(settings)
        self._hints = Hints(self._app)
        self._script = self._store.register_script("return redis.call('SET', KEYS[1], ARGV[1])")

    def write(self) -> None:
        """Write over each, several connections of each pool included."""
        self._script(keys=[f"{self._prefix}sync"], args=["1"])
        self._loop.run_until_complete(self._write_side_by_side())
        assert self._hints.deliveries("msg_a")

    async def _write_side_by_side(self) -> None:
        writes: list[Awaitable[Any]] = [self._events.set(f"{self._prefix}async", "1") for _ in range(5)]
        await asyncio.gather(*writes)

    def read(self, key: str) -> str | None:
        """Read over the link of the store, which may be an old connection."""
        value = self._store.get(f"{self._prefix}{key}")
        return None if value is None else str(value)

    def close(self) -> None:
        """Close all."""
        self._loop.run_until_complete(self._events.aclose())
        self._loop.run_until_complete(asyncio.sleep(0))  # connections that were dropped close in the loop's next round
        self._loop.close()
        self._store.close()
        self._app.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Server, Server, TcpProxy]]:
    """A primary, its replica, and the address of the primary."""
    with valkeys(tmp_path, SYNCS_AT_ONCE, SYNCS_AT_ONCE) as (first, second):
        second.admin.replicaof("127.0.0.1", str(first.port))
        eventually(lambda: link_of(second) == "up")
        with tcp_proxy(first.port) as proxy:
            yield first, second, proxy


def link_of(replica: Server) -> str:
    return str(replica.admin.info("replication")["master_link_status"])


def fail_over(first: Server, second: Server, proxy: TcpProxy) -> None:
    """Make `second` the primary behind the address; connections to `first` stay open."""
    second.admin.replicaof("NO", "ONE")
    first.admin.replicaof("127.0.0.1", str(second.port))
    proxy.target = second.port


def test_after_a_failover_behind_one_address_no_write_fails_on_any_link(two: tuple[Server, Server, TcpProxy]) -> None:
    first, second, proxy = two
    links = Links(Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0", redis_prefix="fo:"))
    links.write()
    assert keys_of(first, "fo:") == WRITTEN
    fail_over(first, second, proxy)
    links.write()
    assert keys_of(second, "fo:") == WRITTEN
    links.close()


def test_after_one_refused_write_the_other_connections_read_from_the_new_primary_too(
    two: tuple[Server, Server, TcpProxy],
) -> None:
    first, second, proxy = two
    client = connect(Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0").store_endpoint)
    with client.client() as one, client.client() as other:  # type: ignore[no-untyped-call]
        one.set("where", "first")
        assert other.get("where") == "first"
        fail_over(first, second, proxy)
        first.admin.replicaof("NO", "ONE")  # cut off: nothing that it holds is true any more
        first.admin.config_set("min-replicas-to-write", "1")
        one.set("where", "second")
        assert other.get("where") == "second"
    client.close()


def test_what_sentinels_nodes_answer_is_told_and_their_password_is_a_setting(tmp_path: Path) -> None:
    with (
        valkeys(tmp_path / "valkeys", {}) as (server,),
        sentinel(tmp_path / "sentinel", "mymaster", server.port, password="sentinel-pw") as port,
    ):
        url = f"redis-sentinel://127.0.0.1:1,127.0.0.1:{port}/mymaster/0"
        said = refusals(Settings(redis_url=url, redis_timeout=1))
        assert all("127.0.0.1:1" in one and "Authentication required" in one for one in said), said
        use_every_link(Settings(redis_url=url, redis_sentinel_password="sentinel-pw", redis_prefix="known:"))
        wrong = url.replace("mymaster", "other")
        said = refusals(Settings(redis_url=wrong, redis_sentinel_password="sentinel-pw", redis_timeout=1))
        assert all("names a primary of the service 'other'" in one for one in said), said
        assert "sentinel-pw" not in str(said)
        assert keys_of(server, "known:") == WRITTEN


def test_tls_with_sentinel_verifies_its_nodes_and_the_primary(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    with (
        tcp_proxy(server.port, authority.server_context("primary")) as primary,
        # It cannot speak TLS itself, and must not find out that the primary does.
        sentinel(tmp_path, "mymaster", primary.port, down_after_ms=3_600_000) as port,
        tcp_proxy(port, authority.server_context("node")) as node,
    ):
        url = f"rediss-sentinel://127.0.0.1:{node.port}/mymaster/0"
        use_every_link(Settings(redis_url=url, redis_ca_file=authority.ca_file, redis_prefix="both:"))
        node.received.clear()
        refusals(Settings(redis_url=url, redis_timeout=1))
        assert bytes(node.received) == b""
    assert keys_of(server, "both:") == WRITTEN


def test_a_node_of_a_cluster_without_the_keys_names_the_node_that_has_them(tmp_path: Path) -> None:
    with valkeys(tmp_path, {"cluster-enabled": "yes"}, {"cluster-enabled": "yes"}) as (node, other):
        slot = int(node.admin.execute_command("CLUSTER", "KEYSLOT", "{tileq}:"))  # type: ignore[no-untyped-call]
        node.admin.execute_command("CLUSTER", "ADDSLOTS", slot)  # type: ignore[no-untyped-call]
        for one in (node, other):
            one.admin.config_set("cluster-require-full-coverage", "no")
        other.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)  # type: ignore[no-untyped-call]
        eventually(lambda: moved(other), within=20)
        with pytest.raises(NotPrimary, match=rf"name 127\.0\.0\.1:{node.port} in the URL"):
            write_synchronously(Settings(redis_url=other.url).store_endpoint, "{tileq}:x")


def moved(node: Server) -> bool:
    """Tell whether `node` has learnt which node holds the keys."""
    try:
        node.admin.exists("{tileq}:x")
    except redis.exceptions.MovedError:
        return True
    except redis.RedisError:
        return False
    return False


def state_of(watch: "redis.Redis") -> dict[str, Any]:
    state: Any = watch.sentinel_master("mymaster")
    return dict(state)


def promotes(watch: "redis.Redis") -> bool:
    try:
        watch.execute_command("SENTINEL", "FAILOVER", "mymaster")  # type: ignore[no-untyped-call]
    except redis.ResponseError:  # NOGOODSLAVE, until the replica was seen often enough
        return False
    return True


def test_sentinel_names_the_primary_to_every_link_and_again_after_a_failover(tmp_path: Path) -> None:
    with (
        valkeys(tmp_path / "valkeys", SYNCS_AT_ONCE, SYNCS_AT_ONCE) as (first, second),
        sentinel(tmp_path / "sentinel", "mymaster", first.port) as port,
    ):
        second.admin.replicaof("127.0.0.1", str(first.port))
        eventually(lambda: link_of(second) == "up")
        watch = redis.Redis(port=port, decode_responses=True)
        watch.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "200")  # type: ignore[no-untyped-call]
        eventually(lambda: state_of(watch)["num-slaves"] == 1, within=30)
        settings = Settings(
            redis_url=f"redis-sentinel://127.0.0.1:1,127.0.0.1:{port}/mymaster/1", redis_prefix="s:", redis_timeout=2
        )
        links = Links(settings)
        links.write()
        assert keys_of(first, "s:", db=1) == WRITTEN
        eventually(lambda: promotes(watch), within=30)
        eventually(lambda: state_of(watch)["port"] == second.port, within=30)
        first.admin.replicaof("127.0.0.1", str(second.port))  # as Sentinel does itself, some seconds later
        links.write()
        assert keys_of(second, "s:", db=1) == WRITTEN
        links.close()
        watch.close()

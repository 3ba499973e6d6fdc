"""Valkeys of a test's own: with any options, behind Sentinel, or without a primary."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import answers_ping, valkey
from tests.servers import needed


@dataclass(frozen=True)
class Server:
    """A running Valkey, and an administrator's client of it."""

    port: int
    admin: "redis.Redis"

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def valkeys(folder: Path, *options: Mapping[str, str]) -> Iterator[list[Server]]:
    """Run a Valkey for each of `options`, which go over those of `tileq up`."""
    ports = free_ports(len(options))
    programs = [_valkey(folder, port, more) for port, more in zip(ports, options, strict=True)]
    with supervised(folder, [programs]):
        servers = [Server(port, redis.Redis(port=port, decode_responses=True, protocol=2)) for port in ports]
        yield servers
        for server in servers:
            server.admin.close()


@contextmanager
def sentinel(
    folder: Path, service: str, primary: int, *, password: str = "", down_after_ms: int = 1000
) -> Iterator[int]:
    """Run a Sentinel that watches the Valkey on port `primary`; yield its port."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / f"sentinel-{port}.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {service} 127.0.0.1 {primary} 1\n"
        f"sentinel down-after-milliseconds {service} {down_after_ms}\n"
        f"sentinel failover-timeout {service} 5000\n" + (f"requirepass {password}\n" if password else "")
    )
    binary = needed(lambda: valkey(folder, port)).argv[0]
    argv = [binary, str(configuration), "--sentinel"]
    probe = answers_ping(port)

    def answers() -> str:
        missing = probe()
        return "" if "NOAUTH" in missing else missing  # it is there, and asks for its password

    with supervised(folder, [[Program("sentinel", argv, probe=answers, stop_within=1)]]):
        yield port


def _valkey(folder: Path, port: int, more: Mapping[str, str]) -> Program:
    program = needed(lambda: valkey(folder / f"data-{port}", port))
    words = [word for name, value in more.items() for word in (f"--{name}", *value.split())]
    return replace(program, name=f"valkey-{port}", argv=[*program.argv, *words], stop_within=1)

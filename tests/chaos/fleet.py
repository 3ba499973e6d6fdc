"""The processes of a run: laid out by the product (`whole_service`), each behind proxies of its own, restarted at once.

intake intake-2 (a supervisor and its children) vision vision-2 webhooks reconciler reconciler-2
    │ every process has its own two proxies: NAME.redis and NAME.s3
    ▼
valkey (valkey-2 after a failover) · seaweedfs
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import redis

from services.cli.local.ports import free_ports
from services.cli.local.process import Process, Program
from services.cli.local.service import answers, process, whole_service
from services.cli.local.valkey import valkey
from shared.settings.roles import Settings
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import FaultProxy, Network
from tests.servers import needed
from tests.waiting import eventually

PERIOD_S = 0.05  #: between two looks at the processes
LEASE_S = 2.0
STALL_S = 7.0  #: longer than an attempt waits for a store and a storage that do not answer
SLOTS = 4
ENVIRONMENT = {
    "TILEQ_ENGINE": "echo",
    "TILEQ_SLOTS": str(SLOTS),
    "TILEQ_ECHO_DELAY": "0.02",
    "TILEQ_LEASE": str(LEASE_S),
    "TILEQ_RETRY_BACKOFF": "0.5",
    "TILEQ_REDISPATCH": "1",
    "TILEQ_RECONCILE_PERIOD": "0.2",
    "TILEQ_CANCEL_INTERVAL": "0.2",
    "TILEQ_STALL": str(STALL_S),
    "TILEQ_SHUTDOWN_GRACE": "0.5",
    "TILEQ_REDIS_TIMEOUT": "2",
    "TILEQ_S3_TIMEOUT": "3",
    "TILEQ_DECODERS": "1",
    "TILEQ_WEBHOOK_TIMEOUT": "2",
    "TILEQ_WEBHOOK_SCHEDULE": ",".join(["0.3", "0.5", "1", "1", "2", "2", *["3"] * 14]),
}
INTAKES = ("intake", "intake-2")
INTAKE_PROCESSES = 2  #: of the second intake, which supervises them
WORKERS = ("vision", "vision-2")
RECONCILERS = ("reconciler", "reconciler-2")


class Fleet(threading.Thread):
    """Starts every process, and again when one dies. Deaths that no fault announced go into the ledger.

    One thread starts them all and outlives them, because a supervised process dies with the thread that started it.
    """

    def __init__(self, folder: Path, network: Network, ledger: Ledger) -> None:
        super().__init__(name="fleet", daemon=True)
        self.folder = folder
        self.clock = folder / "clock"
        self.clock.write_text("0")
        self.proxies: dict[str, FaultProxy] = {}
        self._network = network
        self._ledger = ledger
        self._down: set[str] = set()
        self._announced: Counter[str] = Counter()
        self._extra: list[Program] = []
        self._stopping = threading.Event()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        (port,) = free_ports(1)
        layout = needed(
            lambda: whole_service(folder, Settings(), host="127.0.0.1", port=port, vision=2, more=ENVIRONMENT, load=60)
        )
        servers, ours = layout.stages
        self.environment = layout.environment
        self.store_port = int(layout.environment["TILEQ_REDIS_URL"].rpartition(":")[2].partition("/")[0])
        self._s3_port = int(layout.environment["TILEQ_S3_URL"].rpartition(":")[2])
        self.urls = [layout.url]
        self.webhook_secret = (folder / "webhook-secret").read_text().strip()
        self._stages = [list(servers), [self._behind_proxies(program) for program in (*ours, *self._seconds())]]
        self.processes = {one.name: Process(one, folder) for stage in self._stages for one in stage}

    def _seconds(self) -> Iterator[Program]:
        """The second intake, of several processes, and the second reconciler."""
        (port,) = free_ports(1)
        self.urls.append(f"http://127.0.0.1:{port}")
        environment = {**self.environment, "TILEQ_PORT": str(port), "TILEQ_HTTP_PROCESSES": str(INTAKE_PROCESSES)}
        probe = f"{self.urls[1]}/readyz"
        yield process("intake-2", "services.intake", environment, self.folder, probe_url=probe)
        yield process("reconciler-2", "workers.reconciler", self.environment, self.folder)

    def _behind_proxies(self, program: Program) -> Program:
        store = self.proxies[f"{program.name}.redis"] = self._network.proxy(f"{program.name}.redis", self.store_port)
        s3 = self.proxies[f"{program.name}.s3"] = self._network.proxy(f"{program.name}.s3", self._s3_port)
        env = {
            **program.env,
            "TILEQ_REDIS_URL": f"redis://127.0.0.1:{store.port}/0",
            "TILEQ_S3_URL": f"http://127.0.0.1:{s3.port}",
            "TILEQ_WORKER_NAME": program.name,
            "CHAOS_CLOCK": str(self.clock),
        }
        argv = ["tests.chaos.worker" if word == "workers.vision" else word for word in program.argv]
        return replace(program, argv=argv, env=env, stop_within=1)

    def __enter__(self) -> Self:
        self.start()
        self._up.wait()
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Start stage by stage, then look after everything until the block ends."""
        try:
            for stage in self._stages:
                self._start(stage)
            self._up.set()
            while not self._stopping.wait(PERIOD_S):
                self._look()
        except BaseException as error:  # handed to the thread that waits
            self._failure = error
        finally:
            self._up.set()
            for one in reversed(list(self.processes.values())):
                one.finish()

    def _start(self, stage: list[Program]) -> None:
        for program in stage:
            self.processes[program.name].start()
        for program in stage:
            eventually(lambda probe=program.probe: not probe(), 60, 0.1)  # type: ignore[misc]

    def _look(self) -> None:
        while self._extra:
            program = self._extra.pop()
            self.processes[program.name] = Process(program, self.folder)
            self.processes[program.name].start()
        for name, one in self.processes.items():
            if name in self._down or (code := one.exit_code()) is None:
                continue
            if self._announced[name]:
                self._announced[name] = 0
            else:
                self._ledger.deaths.append(f"{name} ended with {code}: {one.log_tail(3)}")
            one.start()

    # --- what faults do

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, alone: bool = False) -> int:
        """Send a signal to `name`, which may end it, and to its children unless `alone`; return its pid.

        SIGTERM goes to `name` alone: its children are its own to end.
        """
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._announced[name] += 1
        pid = self.processes[name].pid
        send = os.kill if alone or number is signal.SIGTERM else os.killpg
        send(pid, number)
        return pid

    def children(self, name: str) -> set[int]:
        """Pids of the children of `name`."""
        pid = self.processes[name].pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def announce_death(self, name: str) -> None:
        """Say that `name` may die now."""
        self._announced[name] += 1

    def withdraw(self, name: str) -> None:
        """Say that `name` has no reason to die any more."""
        self._announced[name] = 0

    @contextmanager
    def down(self, name: str) -> Iterator[int]:
        """Kill `name` and keep it down while the block runs."""
        self._down.add(name)
        pid = self.kill(name)
        try:
            yield pid
        finally:
            self._announced[name] = 1  # the death is seen only now
            self._down.discard(name)

    def retire(self, name: str) -> int:
        """Kill `name` for good."""
        self._down.add(name)
        return self.kill(name)

    def restarted(self, name: str, pid: int, within: float = 30) -> bool:
        """Wait until `name` has another pid than `pid` and is ready; False when it never gets there."""
        return self._holds(lambda: self.processes[name].pid != pid, within) and self.is_ready(name, within)

    def is_ready(self, name: str, within: float = 30) -> bool:
        """Wait until `name` is ready; False when it never gets there."""
        return self._holds(lambda: not self.processes[name].program.probe(), within)

    @staticmethod
    def _holds(condition: Callable[[], bool], within: float) -> bool:
        try:
            return eventually(condition, within, 0.1)
        except AssertionError:
            return False

    def proxies_of(self, kind: str, *names: str) -> list[FaultProxy]:
        """The proxies of `kind` (`redis`, `s3`) of the named processes, or of all."""
        return [
            proxy
            for name, proxy in self.proxies.items()
            if name.endswith(f".{kind}") and (not names or name.rpartition(".")[0] in names)
        ]

    def store(self) -> "redis.Redis":
        """A client of the present primary, past all proxies."""
        return redis.Redis.from_url(f"redis://127.0.0.1:{self.store_port}/0", decode_responses=True, socket_timeout=5)

    @property
    def prefix(self) -> str:
        """In front of every key."""
        return "tileq:"

    def start_replica(self, name: str) -> int:
        """Start a replica of the present primary; return its port once it is in sync."""
        (port,) = free_ports(1)
        program = valkey(self.folder / name, port)
        program = replace(program, name=name, argv=[*program.argv, "--replicaof", "127.0.0.1", str(self.store_port)])
        with self.store() as primary:
            primary.config_set("repl-diskless-sync-delay", 0)
        self._extra.append(program)
        with redis.Redis(port=port, decode_responses=True) as client:
            eventually(lambda: _in_sync(client), 20, 0.1)
        return port

    def promoted(self, name: str, port: int) -> None:
        """Say that `name`, started as a replica, is the primary: connections go there, and it restarts as one."""
        one = self.processes[name]
        one.program = replace(one.program, argv=one.program.argv[: -len(("--replicaof", "host", "port"))])
        for proxy in self.proxies_of("redis"):
            proxy.upstream = port
        self.store_port = port

    def probe(self, url: str) -> Callable[[], str]:
        """Return the probe of readiness of the intake at `url`."""
        return answers(f"{url}/readyz")


def _in_sync(client: "redis.Redis") -> bool:
    try:
        info = client.info("replication")
    except redis.RedisError:
        return False
    return info.get("master_link_status") == "up" and not info.get("master_sync_in_progress")


def wait(seconds: float) -> None:
    """Let a fault last; nothing is polled, because nothing is to happen but time."""
    threading.Event().wait(seconds)


def now() -> float:
    """Seconds since the epoch, by the harness' clock."""
    return time.time()

"""`make load`: a constant rate of small jobs for minutes, from submission to webhook, and what each process weighs.

The load does not wait for the service: a job is due at its time, and every latency counts from then, so that a service
that stops for a second shows it in the hundred jobs of that second. The generator and the receiver of the webhooks run
beside the service and take their share of the same cores; it is printed.

`make load ARGS='--backlog 10 1000 100000 --minutes 1'` does it once for each backlog of queued jobs.
"""

import argparse
import asyncio
import http.client
import io
import json
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import redis
from PIL import Image
from rich.console import Console
from rich.table import Table

from shared.connections.redis_client import connect
from shared.store.client import Store
from tests.bench.accept import machine
from tests.bench.clients import hand_out
from tests.bench.figures import at_least, at_most
from tests.bench.processes import processor_s, pss_bytes
from tests.bench.queue import fill
from tests.service import Service, service

CLIENTS = (
    32  #: connections; more jobs than these under way at once would wait in the generator, which counts as latency
)
BOUNDARY = "tileq-load"
SAMPLE_PERIOD_S = 10.0
WARM_UP_S = 30.0  #: before memory has to stay where it is
DRAIN_WITHIN_S = 60.0
ANSWER_TIMEOUT_S = 30.0


@dataclass
class Samples:
    """What was seen, by the number of the job; times are monotonic seconds."""

    due: dict[int, float] = field(default_factory=dict)
    accepted: dict[int, float] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)  #: of the first webhook
    repeated: int = 0
    refused: dict[str, int] = field(default_factory=dict)  #: by status or error

    def arrive(self, body: dict[str, Any]) -> None:
        """Note a webhook."""
        number = int(body["data"]["metadata"]["number"])
        if number in self.arrived:
            self.repeated += 1
        self.arrived.setdefault(number, time.monotonic())

    def latencies(self, ends: dict[int, float]) -> list[float]:
        """Seconds from when a job was due to `ends`, sorted."""
        return sorted(end - self.due[number] for number, end in ends.items())


class Receiver:
    """Takes webhooks while the block runs, and calls `arrive` with the body of each."""

    def __init__(self, arrive: Callable[[dict[str, Any]], None]) -> None:
        self.url = ""
        self._arrive = arrive
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self._serve, daemon=True).start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._take, "127.0.0.1", 0, backlog=1024))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        self._ready.set()
        self._loop.run_forever()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        self._arrive(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()


class Generator:
    """Submits jobs at a constant rate."""

    def __init__(self, url: str, hook: str, samples: Samples) -> None:
        self._host = urlsplit(url).netloc
        self._samples = samples
        self._lock = threading.Lock()
        picture = io.BytesIO()
        Image.effect_noise((160, 120), 60).convert("RGB").save(picture, "JPEG", quality=80)
        self._job = {"prompt": "What is shown?", "webhook": {"url": hook}, "tiles": 1}
        self._image = picture.getvalue()

    def run(self, rate: float, seconds: float) -> None:
        """Submit `rate` jobs a second for `seconds`; return when each has been answered."""
        begin = time.monotonic() + 0.5

        def submit(connection: http.client.HTTPConnection, number: int) -> None:
            due = begin + number / rate
            threading.Event().wait(max(0.0, due - time.monotonic()))
            self._submit(connection, number, due)

        connections = [http.client.HTTPConnection(self._host, timeout=ANSWER_TIMEOUT_S) for _ in range(CLIENTS)]
        hand_out(range(int(seconds * rate) + 1), connections, submit)

    def _submit(self, connection: http.client.HTTPConnection, number: int, due: float) -> None:
        self._samples.due[number] = due
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        try:
            connection.request("POST", "/v1/jobs", self._body(number), headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._refused(type(error).__name__)
            return
        if answer.status == http.HTTPStatus.ACCEPTED:
            self._samples.accepted[number] = time.monotonic()
        else:
            self._refused(str(answer.status))

    def _refused(self, reason: str) -> None:
        with self._lock:
            self._samples.refused[reason] = self._samples.refused.get(reason, 0) + 1

    def _body(self, number: int) -> bytes:
        request = json.dumps({**self._job, "metadata": {"number": str(number)}})
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
        head = part % ("request", "") + request + "\r\n" + part % ("image", '; filename="a.jpg"')
        return head.encode() + self._image + f"\r\n--{BOUNDARY}--\r\n".encode()


class Processes(threading.Thread):
    """Samples memory and processor time of every process of a service, children included."""

    def __init__(self, here: Service) -> None:
        super().__init__(daemon=True)
        self.memory: dict[str, list[tuple[float, int]]] = {}  #: by name: monotonic seconds, bytes (PSS)
        self._pids = {path.stem: int(path.read_text()) for path in (here.folder / "run").glob("*.pid")}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while True:
            for name, pid in self._pids.items():
                size = pss_bytes(pid)
                self.memory.setdefault(name, []).append((time.monotonic(), size))
            if self._stopping.wait(SAMPLE_PERIOD_S):
                return

    def stop(self) -> None:
        """Take no more samples."""
        self._stopping.set()
        self.join()

    def processor_s(self) -> dict[str, float]:
        """Processor seconds since the start of each, children included."""
        return {name: processor_s(pid) for name, pid in self._pids.items()}


def _redis_bytes(here: Service) -> int:
    with redis.Redis.from_url(here.settings.redis_url) as client:
        return int(client.info("memory")["used_memory"])


def main() -> None:
    """Load a service with the `echo` engine, and print what it held; at each backlog, where several are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=100, help="submissions a second")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--decode", action="store_true", help="let the worker decode and tile each image")
    parser.add_argument("--backlog", type=int, nargs="+", default=[0], help="jobs of another model that wait meanwhile")
    chosen = parser.parse_args()
    console = Console(width=120)
    console.print(
        f"{machine()}, load {os.getloadavg()[0]:.1f}, {chosen.rate:g}/s for {chosen.minutes:g} min, echo engine"
    )
    found = {backlog: load(chosen, backlog, console) for backlog in sorted(chosen.backlog)}
    if len(found) > 1:
        _print_backlogs(console, found)


def load(chosen: argparse.Namespace, backlog: int, console: Console) -> Samples:
    """Load one service in whose store `backlog` jobs wait, and print what it held."""
    samples, seconds = Samples(), 60 * chosen.minutes
    env = {
        "TILEQ_ECHO_TILES": str(chosen.decode).lower(),
        "TILEQ_LOG_LEVEL": "warning",
        "TILEQ_MAX_QUEUED": str(10 * max(backlog, 10_000)),
    }
    with Receiver(samples.arrive) as receiver, service(engine="echo", vision=chosen.workers, env=env) as here:
        fill(Store(connect(here.settings.store_endpoint), here.settings.redis_prefix), backlog)
        generator, processes = Generator(here.url, receiver.url, samples), Processes(here)
        before, redis_before, began = processes.processor_s(), _redis_bytes(here), time.monotonic()
        own_before = resource.getrusage(resource.RUSAGE_SELF)
        processes.start()
        generator.run(chosen.rate, seconds)
        deadline = time.monotonic() + DRAIN_WITHIN_S
        while len(samples.arrived) < len(samples.accepted) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        if not samples.accepted:
            raise SystemExit(f"no job was accepted: {samples.refused}")
        took = max([*samples.arrived.values(), *samples.accepted.values()]) - began
        processes.stop()
        after, redis_after = processes.processor_s(), _redis_bytes(here)
    own = resource.getrusage(resource.RUSAGE_SELF)
    generator_s = own.ru_utime + own.ru_stime - own_before.ru_utime - own_before.ru_stime
    _print_jobs(console, samples, took)
    jobs = max(1, len(samples.accepted))
    processor = {name: after[name] - before[name] for name in after} | {"generator and receiver": generator_s}
    _print_processes(console, processes.memory, processor, jobs)
    at_most("Redis for an ended job", (redis_after - redis_before) / jobs, 4000, "bytes")
    console.print(f"Redis: {(redis_after - redis_before) / jobs:.0f} bytes an ended job, prompt and output included")
    return samples


def _print_backlogs(console: Console, found: dict[int, Samples]) -> None:
    """Print the medians at each backlog, and hold the longest to the shortest."""
    table = Table("jobs that wait", "accept p50 ms", "webhook p50 ms", title="by backlog")
    medians = {
        backlog: [1000 * _quantile(samples.latencies(ends), 0.5) for ends in (samples.accepted, samples.arrived)]
        for backlog, samples in found.items()
    }
    for backlog, times in medians.items():
        table.add_row(f"{backlog:,}", *(f"{time:.1f}" for time in times))
    console.print(table)
    (shortest, few), *_, (longest, many) = medians.items()
    at_most(f"accept over HTTP with {longest:,} queued, beside {shortest:,}", many[0] / few[0], 1.2)


def _print_jobs(console: Console, samples: Samples, took_s: float) -> None:
    table = Table(title="jobs")
    for column in ("", "number", "a second", "p50 ms", "p95 ms", "p99 ms", "longest ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, ends in (("accepted", samples.accepted), ("webhook arrived", samples.arrived)):
        found = samples.latencies(ends)
        cells = [f"{1000 * _quantile(found, share):.1f}" for share in (0.5, 0.95, 0.99, 1)] if found else ["-"] * 4
        table.add_row(name, str(len(found)), f"{len(found) / took_s:.1f}", *cells)
    console.print(table)
    at_least("small jobs held", len(samples.arrived) / took_s, 0.95 * len(samples.due) / took_s, "jobs/s")
    lost = len(samples.accepted.keys() - samples.arrived.keys())
    at_most("accepted jobs without a webhook", lost, 0, "jobs")
    refused = ", ".join(f"{reason} {number}" for reason, number in samples.refused.items()) or "none"
    console.print(
        f"refused: {refused}; accepted without a webhook: {lost}; webhooks that came again: {samples.repeated}"
    )


def _print_processes(
    console: Console, memory: dict[str, list[tuple[float, int]]], processor_s: dict[str, float], jobs: int
) -> None:
    table = Table(title="processes, children included (memory: PSS)")
    for column in ("", "MB at the start", f"after {WARM_UP_S:g} s", "at the end", "MB a minute", "CPU ms a job"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in processor_s.items():
        cells = _memory_cells(memory[name]) if name in memory else ["-"] * 4
        table.add_row(name, *cells, f"{1000 * seconds / jobs:.2f}")
    table.add_row("all", *[""] * 4, f"{1000 * sum(processor_s.values()) / jobs:.2f}")
    console.print(table)


def _memory_cells(samples: Sequence[tuple[float, int]]) -> list[str]:
    begin = samples[0][0]
    warm = [sample for sample in samples if sample[0] - begin >= WARM_UP_S] or samples[-1:]
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope if len(warm) > 1 else 0.0
    sizes = (samples[0][1], warm[0][1], samples[-1][1])
    return [*(f"{size / 1e6:.0f}" for size in sizes), f"{60 * slope / 1e6:+.2f}"]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()

"""`make bench-accept`: what the promise costs, beside the same work done by hand in the same run.

Accepting: POST /v1/jobs with a 200 KB JPEG, beside PUT image + PUT manifest + one fsynced Redis write + one publish.
A background response (OpenAI's surface): beside the same job as JSON, which takes the column "by hand".
End to end: the `echo` engine without webhook, beside a bare Celery task that does the same storage work.
The two take turns, so that both see the same machine; every figure is a median, every verdict a ratio.
"""

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from rich.console import Console
from rich.table import Table

from shared.connections.redis_client import connect
from shared.store.client import Store
from shared.store.stats import get_stats
from tests.bench.bare import Bare
from tests.bench.clients import hand_out
from tests.bench.figures import at_least, at_most
from tests.service import Service, service, started
from tests.waiting import eventually

BOUNDARY = "tileq-bench"
PROMPT = "What does the sign say?"


def jpeg(size: int = 200_000, seed: int = 7) -> bytes:
    """Return a JPEG of about `size` bytes, 1280x960, of noise over colour (it does not compress further)."""
    rng = random.Random(seed)
    noise = Image.frombytes("RGB", (320, 240), rng.randbytes(3 * 320 * 240)).resize((1280, 960))
    data = b""
    for quality in range(30, 100):
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) >= size:
            break
    return data


class Client:
    """One HTTP connection that posts the same job again and again."""

    def __init__(self, url: str, image: bytes) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
        head = (part % ("prompt", "")).encode() + PROMPT.encode() + b"\r\n"
        file = (part % ("image", '; filename="a.jpg"\r\nContent-Type: image/jpeg')).encode() + image + b"\r\n"
        self._body = head + file + f"--{BOUNDARY}--\r\n".encode()
        uri = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        self._job = json.dumps({"prompt": PROMPT, "images": [uri]}).encode()
        parts = [{"type": "input_image", "image_url": uri}, {"type": "input_text", "text": PROMPT}]
        asked = {"input": [{"role": "user", "content": parts}], "background": True}
        self._response = json.dumps(asked).encode()

    def submit(self, wait: int = 0) -> None:
        """Post one job; 202, or 200 once it ended where `wait` allows for that."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        if wait:
            headers["Prefer"] = f"wait={wait}"
        self._connection.request("POST", "/v1/jobs", self._body, headers)
        self._expect(200 if wait else 202)

    def submit_json(self) -> None:
        """Post the same job as JSON."""
        self._connection.request("POST", "/v1/jobs", self._job, {"Content-Type": "application/json"})
        self._expect(202)

    def submit_response(self) -> None:
        """Post the same job as a background response of OpenAI's surface."""
        self._connection.request("POST", "/v1/responses", self._response, {"Content-Type": "application/json"})
        self._expect(200)

    def _expect(self, status: int) -> None:
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != status:
            raise RuntimeError(f"{answer.status}: {body[:300]!r}")


def seconds(act: Callable[[], object]) -> float:
    """Return how long `act` took."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def in_turn(first: Callable[[], object], second: Callable[[], object], times: int) -> tuple[list[float], list[float]]:
    """Time both `times` times, A B A B …, after a warm-up of five each."""
    for _ in range(5):
        first()
        second()
    pairs = [(seconds(first), seconds(second)) for _ in range(times)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def rate(act: Callable[[int], object], clients: int, span: float) -> float:
    """Return how many times per second `clients` threads do `act(client)`, over `span` seconds."""
    end = time.perf_counter() + span
    counts = [0] * clients

    def work(client: int) -> None:
        while time.perf_counter() < end:
            act(client)
            counts[client] += 1

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return sum(counts) / (time.perf_counter() - began)


def throughput(submit: Callable[[int], object], done: Callable[[], int], clients: int, jobs: int) -> float:
    """Return jobs per second from the first submission to the last end, `clients` threads submitting."""
    before, began = done(), time.perf_counter()
    hand_out(range(jobs), range(clients), lambda client, _: submit(client))
    eventually(lambda: done() - before >= jobs, within=300, every=0.005)
    return jobs / (time.perf_counter() - began)


class Bench:
    """The four comparisons over one running service."""

    def __init__(self, here: Service, scale: float, clients: int) -> None:
        self.here = here
        self.scale = scale
        self.clients = clients
        self.image = jpeg()
        manifest = {"record": {"id": "x" * 40, "tenant": "local"}, "request": {"messages": [PROMPT], "tiles": 12}}
        self.manifest = json.dumps(manifest).encode().ljust(900)
        self.bare = [Bare(here.settings) for _ in range(clients)]
        self.http = [Client(here.url, self.image) for _ in range(clients)]
        self.store = Store(connect(here.settings.store_endpoint), here.settings.redis_prefix)
        self._ids = (f"{os.getpid()}-{n}" for n in itertools.count())
        self._lock = threading.Lock()

    def accept_latency(self) -> tuple[float, float]:
        """Median seconds of (bare, tileq), one client."""
        bare, ours = in_turn(lambda: self.accept(0), self.http[0].submit, int(200 * self.scale))
        return statistics.median(bare), statistics.median(ours)

    def response_latency(self) -> tuple[float, float]:
        """Median seconds of (native job as JSON, background response), one client."""
        native, response = in_turn(self.http[0].submit_json, self.http[0].submit_response, int(200 * self.scale))
        return statistics.median(native), statistics.median(response)

    def accept_rate(self) -> tuple[float, float]:
        """Median accepted per second of (bare, tileq), all clients."""
        span = 4 * self.scale
        rounds = [
            (rate(self.accept, self.clients, span), rate(lambda n: self.http[n].submit(), self.clients, span))
            for _ in range(5)
        ]
        return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)

    def whole_latency(self) -> tuple[float, float]:
        """Median seconds from submission to end of (bare, tileq), one at a time."""

        def by_hand() -> None:
            self.bare[0].wait(self.accept(0))

        bare, ours = in_turn(by_hand, lambda: self.http[0].submit(wait=30), int(100 * self.scale))
        return statistics.median(bare), statistics.median(ours)

    def whole_rate(self) -> tuple[float, float]:
        """Median jobs per second from submission to end of (bare, tileq), all clients."""
        jobs = int(300 * self.scale)
        rounds = [
            (
                throughput(self.accept, self.bare[0].done, self.clients, jobs),
                throughput(lambda n: self.http[n].submit(), self.ended, self.clients, jobs),
            )
            for _ in range(3)
        ]
        return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)

    def accept(self, client: int) -> str:
        """Do by hand what a 202 stands for; return the id."""
        with self._lock:
            id = next(self._ids)
        self.bare[client].accept(id, self.image, self.manifest)
        return id

    def ended(self) -> int:
        """How many jobs tileq has ended."""
        moves = self.store.run(get_stats()).moves
        if failed := moves.get("failed", 0):
            raise RuntimeError(f"{failed} jobs failed")
        return moves.get("succeeded", 0)


def rows(bench: Bench, parts: str) -> Iterator[tuple[str, float, float, str, float, bool]]:
    """Yield (what, bare, tileq, unit, goal, the ratio must be below it)."""
    if parts == "accept":
        bare, ours = bench.accept_latency()
        yield "accept, 1 client, p50", 1000 * bare, 1000 * ours, "ms", 1.5, True
        native, ours = bench.response_latency()
        yield "POST /v1/responses beside POST /v1/jobs, p50", 1000 * native, 1000 * ours, "ms", 1.15, True
        bare, ours = bench.accept_rate()
        yield f"accept, {bench.clients} clients", bare, ours, "jobs/s", 0.7, False
    else:
        bare, ours = bench.whole_latency()
        yield "submit to ended, idle, p50", 1000 * bare, 1000 * ours, "ms", 2.0, True
        bare, ours = bench.whole_rate()
        yield f"submit to ended, {bench.clients} clients", bare, ours, "jobs/s", 0.6, False


def machine() -> str:
    """Name the processor and its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor()}"


def main() -> None:
    """Run the comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of samples")
    parser.add_argument("--only", choices=["accept", "whole"])
    parser.add_argument("--decode", action="store_true", help="let the echo worker decode and tile each image")
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    decoded = "tileq decodes and tiles each image" if arguments.decode else "no image decoded"
    table = Table(title=f"tileq beside the same work by hand, {decoded} ({machine()})")
    for column in ("", "by hand", "tileq", "ratio", "goal", ""):
        table.add_column(column, justify="left" if not column else "right")
    for parts, workers in (("accept", 0), ("whole", 1)):
        if arguments.only not in (None, parts):
            continue
        with ExitStack() as stack:
            # By hand nothing is decoded either: what is measured is the queue.
            env = {"TILEQ_ECHO_TILES": str(arguments.decode).lower()}
            here = stack.enter_context(service(engine="echo", vision=workers, env=env))
            if workers:
                stack.enter_context(started("tests.bench.bare", here))
            for what, bare, ours, unit, goal, below in rows(Bench(here, arguments.scale, arguments.clients), parts):
                ratio = ours / bare
                met = ratio <= goal if below else ratio >= goal
                bound = f"{'<=' if below else '>='} {goal:g}"
                (at_most if below else at_least)(f"{what}, beside by hand", ratio, goal)
                table.add_row(
                    what, f"{bare:.1f} {unit}", f"{ours:.1f} {unit}", f"{ratio:.2f}", bound, "met" if met else "missed"
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

"""`make bench-bodies`: how long GET /healthz takes while 8 clients keep posting 60 MB of JSON data URIs each."""

import argparse
import base64
import http.client
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.bench.accept import jpeg, machine
from tests.bench.figures import at_most
from tests.bench.processes import pss_bytes
from tests.service import service

GOAL_MS = 200.0  #: of the 99th percentile of the health check
CLIENTS, IMAGES, IMAGE_BYTES = 8, 3, 15_000_000
PERIOD_S = 0.02


def body() -> bytes:
    """Return a job of 60 MB: JPEGs with bytes behind their end, which decoders skip."""
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg().ljust(IMAGE_BYTES, b"\0")).decode()
    return json.dumps({"prompt": "?", "images": [uri] * IMAGES}).encode()


def main() -> None:
    """Post for `--seconds`, and print quantiles of the health check before and meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    chosen = parser.parse_args()
    data, statuses, over = body(), Counter[str](), threading.Event()
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}, {CLIENTS} clients, bodies of {len(data) / 1e6:.0f} MB")
    with service(engine="echo", env={"TILEQ_ECHO_TILES": "false", "TILEQ_MAX_TILES": "1000"}) as here:
        host = urlsplit(here.url).netloc

        def post(_: int) -> None:
            while not over.is_set():
                connection = http.client.HTTPConnection(host, timeout=120)
                try:
                    connection.request("POST", "/v1/jobs", data, {"Content-Type": "application/json"})
                    statuses[str(connection.getresponse().status)] += 1
                except OSError as error:
                    statuses[type(error).__name__] += 1
                connection.close()

        print(f"idle: {quantiles(health(host, chosen.seconds / 4))}")
        with ThreadPoolExecutor(CLIENTS) as pool:
            posts = [pool.submit(post, n) for n in range(CLIENTS)]
            try:
                found = health(host, chosen.seconds)
                print(f"meanwhile: {quantiles(found)}; goal: p99 at most {GOAL_MS:g} ms", flush=True)
                at_most("health check beside bodies of 60 MB, p99", p99(found), GOAL_MS, "ms")
            finally:
                print(f"intake holds {pss_bytes(here.pid('intake')) / 1e6:.0f} MB (PSS)")
                over.set()
            for one in posts:
                one.result()
    print(f"answers to the large bodies: {dict(statuses)}")


def health(host: str, seconds: float) -> list[float]:
    """Return the sorted milliseconds of GET /healthz, asked every `PERIOD_S` seconds over one connection."""
    connection, found, end = http.client.HTTPConnection(host, timeout=60), [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        found.append(1000 * (time.perf_counter() - began))
        threading.Event().wait(PERIOD_S)
    return sorted(found)


def quantiles(ordered: list[float]) -> str:
    """Say the median, the 99th percentile and the longest of `ordered`."""
    return f"p50 {ordered[len(ordered) // 2]:.1f} ms, p99 {p99(ordered):.1f} ms, longest {ordered[-1]:.1f} ms"


def p99(ordered: list[float]) -> float:
    """Return the 99th percentile of `ordered`."""
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


if __name__ == "__main__":
    main()

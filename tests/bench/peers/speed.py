"""What a job costs: accepting alone, idle from submission to result, and many clients at once."""

import signal
import statistics
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.bench.accept import seconds
from tests.bench.clients import hand_out
from tests.bench.load import Receiver
from tests.bench.peers.systems import ENDED, Client, System
from tests.bench.processes import processor_s, pss_bytes, signal_family
from tests.waiting import eventually

POLL_S = 0.025
IDLE_POLL_S = 0.002  #: an idle system answers sooner than a usual poll would see
CLIENTS = 16


class Measurement:
    """One system under measurement; figures by name, one of each round."""

    def __init__(self, system: System, image: bytes) -> None:
        self.system = system
        self.image = image
        self.found: dict[str, float] = {}
        self._clients = [Client(system, image) for _ in range(CLIENTS)]

    def run(self, jobs: int) -> dict[str, float]:
        """Measure everything; about `jobs` jobs with many clients, a quarter of it one after another."""
        for _ in range(10):
            self._whole(self._clients[0], IDLE_POLL_S)
        self._accept_latency(jobs // 4)
        self._idle_latency(jobs // 4)
        self._accept_rate(jobs)
        self._job_rate(jobs, "", lambda client: self._whole(client, POLL_S))
        if self.system.name == "tileq":
            self._job_rate(jobs, " with ?wait", lambda client: client.submit(wait_s=30))
            self._webhook_delay(jobs // 4)
        self.found["memory, MB"] = sum(pss_bytes(pid) for pid in self.system.pids().values()) / 1e6
        return self.found

    def _accept_latency(self, jobs: int) -> None:
        taken = sorted(seconds(self._clients[0].submit) for _ in range(jobs))
        self.found["accept, 1 client, p50 ms"] = 1000 * statistics.median(taken)
        self.found["accept, 1 client, p99 ms"] = 1000 * taken[int(0.99 * len(taken))]
        self._drain()

    def _idle_latency(self, jobs: int) -> None:
        taken = [seconds(lambda: self._whole(self._clients[0], IDLE_POLL_S)) for _ in range(jobs)]
        self.found["submit to result, idle, p50 ms"] = 1000 * statistics.median(taken)

    def _accept_rate(self, jobs: int) -> None:
        """With the worker stopped, so that accepting has the cores to itself."""
        worker = self.system.pids()[self.system.worker]
        signal_family(worker, signal.SIGSTOP)
        try:
            before, took_s = self._processor_s(), self._with_clients(jobs, lambda client: client.submit())
            self.found[f"accepted/s, {CLIENTS} clients, worker stopped"] = jobs / took_s
            self.found["accept alone, CPU ms"] = (
                1000 * (sum(self._processor_s().values()) - sum(before.values())) / jobs
            )
        finally:
            signal_family(worker, signal.SIGCONT)
        self._drain()

    def _job_rate(self, jobs: int, how: str, act: Callable[[Client], object]) -> None:
        before, took_s = self._processor_s(), self._with_clients(jobs, act)
        self.found[f"jobs/s, {CLIENTS} clients{how}"] = jobs / took_s
        after = self._processor_s()
        self.found[f"CPU ms a job{how}"] = 1000 * (sum(after.values()) - sum(before.values())) / jobs
        for name, value in after.items():
            self.found[f"- {name}{how}"] = 1000 * (value - before[name]) / jobs

    def _webhook_delay(self, jobs: int) -> None:
        delays: list[float] = []
        with Receiver(lambda body: delays.append(time.time() - _ended(body))) as receiver:
            client = Client(self.system, self.image, hook=receiver.url)
            for number in range(jobs):
                client.submit(wait_s=30)
                eventually(lambda expected=number + 1: len(delays) >= expected, every=0.001)  # type: ignore[misc]
        self.found["webhook from the end, idle, p50 ms"] = 1000 * statistics.median(delays)

    def _whole(self, client: Client, poll_s: float) -> None:
        id, ended = client.submit()
        while not ended:
            threading.Event().wait(poll_s)
            ended = client.get(id)["state"] in ENDED

    def _with_clients(self, jobs: int, act: Callable[[Client], object]) -> float:
        return hand_out(range(jobs), self._clients, lambda client, _: act(client))

    def _drain(self) -> None:
        """A job that is submitted last ends last."""
        self._whole(self._clients[0], POLL_S)

    def _processor_s(self) -> dict[str, float]:
        return {name: processor_s(pid) for name, pid in self.system.pids().items()}


def _ended(body: dict[str, Any]) -> float:
    return datetime.fromisoformat(body["data"]["ended_at"]).timestamp()

"""Faults of intakes."""

import os
import signal
from pathlib import Path
from typing import Literal

from tests.chaos.faults.base import Run, is_command, kill, within
from tests.chaos.fleet import INTAKE_PROCESSES, INTAKES
from tests.chaos.proxy import Trigger

#: Of accepting an image: reserve the key, store, accept. A hint is published only where no slot waits for a job.
LEAST_EXCHANGES = 3


def kill_intake(run: Run) -> None:
    """SIGKILL an intake at a step of accepting: before or after its n-th exchange with Redis or S3 (13).

    The client repeats the request under the same Idempotency-Key, and must end with one job.
    """
    name = run.rng.choice(INTAKES)
    step = run.rng.randrange(1, 8)
    when: Literal["before", "after"] = "before" if run.rng.random() < 0.5 else "after"
    with run.ledger.fault("kill_intake", name) as fault:
        for earlier in range(step, 0, -1):
            if kill_intake_at(run, name, earlier, when):
                fault.evidence = f"killed {when} exchange {earlier}"
                break


def kill_intake_at_every_step(run: Run) -> None:
    """Do the same at each step in turn, before and after it, until a submission gets through (13)."""
    with run.ledger.fault("kill_intake_at_every_step", " and ".join(INTAKES)) as fault:
        steps = [_kill_at_each(run, INTAKES[0], "before"), _kill_at_each(run, INTAKES[1], "after")]
        if all(step >= LEAST_EXCHANGES for step in steps):
            fault.evidence = f"killed before each of {steps[0]} exchanges, and after each of {steps[1]}"


def _kill_at_each(run: Run, name: str, when: Literal["before", "after"]) -> int:
    return next(step for step in range(1, 50) if not kill_intake_at(run, name, step, when)) - 1


def kill_intake_at(run: Run, name: str, step: int, when: Literal["before", "after"]) -> bool:
    """Kill `name` at exchange `step` while it takes one submission in; False when it answered before.

    An exchange is one chunk that it sends to Redis or S3, whatever for.
    """
    pid, url = run.fleet.processes[name].pid, run.traffic.urls[INTAKES.index(name)]
    exchanges = iter(range(1, 10**6))
    trigger = Trigger(lambda data: is_command(data) and next(exchanges) >= step, lambda: kill(run, name), when)
    proxies = run.fleet.proxies_of("redis", name) + run.fleet.proxies_of("s3", name)
    submission = run.traffic.new("image")
    with run.ledger.client() as http:
        for proxy in proxies:
            proxy.trigger = trigger
        run.traffic.send(submission, http, url)
        for proxy in proxies:
            proxy.trigger = None
        if trigger.fired:
            run.fleet.restarted(name, pid)
    return trigger.fired  # the request is repeated at the end: the key of a dead intake is free again after seconds


def kill_intake_child(run: Run) -> None:
    """SIGKILL one of the processes that share a port: the others serve, and its supervisor starts another (13)."""
    name = INTAKES[1]
    with run.ledger.fault("kill_intake_child", f"a child of {name}") as fault:
        before = run.fleet.children(name)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        left = before - {killed}
        replaced = within(20, lambda: bool(run.fleet.children(name) - before) and left < run.fleet.children(name))
        if len(before) == INTAKE_PROCESSES and replaced and run.fleet.is_ready(name):
            fault.evidence = f"pid {killed} of {sorted(before)} was replaced"


def kill_intake_supervisor(run: Run) -> None:
    """SIGKILL the supervisor of several processes: its children end too, and none keeps the port (13)."""
    name = INTAKES[1]
    with run.ledger.fault("kill_intake_supervisor", name) as fault:
        children = run.fleet.children(name)
        pid = run.fleet.kill(name, alone=True)
        gone = within(20, lambda: not any(Path(f"/proc/{child}").exists() for child in children))
        if gone and run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} and its children {sorted(children)} are gone"

"""Faults of reconcilers, of the webhook dispatcher and of the process of batches."""

import signal
from contextlib import suppress
from itertools import count
from typing import Literal

import httpx

from tests.chaos import batches
from tests.chaos.faults.base import Run, is_command, kill, process_state, within
from tests.chaos.fleet import INTAKES, LEASE_S, RECONCILERS, wait
from tests.chaos.proxy import Trigger

BATCH_LINES = 40
BATCH_KILLS = 3
BATCH_S = 60.0  #: in which a batch must have ended


def stop_another(run: Run) -> None:
    """SIGTERM to an intake, a reconciler or the dispatcher: what is under way ends, nothing is refused twice (12)."""
    name = run.rng.choice((*INTAKES, *RECONCILERS, "webhooks"))
    with run.ledger.fault("stop_another", name) as fault:
        pid = run.fleet.kill(name, signal.SIGTERM)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} ended when asked"


def freeze_another(run: Run) -> None:
    """SIGSTOP and SIGCONT of an intake, a reconciler or the dispatcher."""
    name = run.rng.choice((*INTAKES, *RECONCILERS, "webhooks"))
    with run.ledger.fault("freeze_another", name) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        stopped = within(2, lambda: process_state(run.fleet.processes[name].pid) == "T")
        wait(LEASE_S)
        run.fleet.kill(name, signal.SIGCONT)
        fault.evidence = "stopped, and went on" if stopped else ""


def kill_reconciler(run: Run) -> None:
    """SIGKILL one of two, then both at once: repetition stops for a while, and costs only time (14)."""
    with run.ledger.fault("kill_reconciler", " and ".join(RECONCILERS)) as fault:
        pids = [run.fleet.kill(name) for name in RECONCILERS]
        if all(run.fleet.restarted(name, pid) for name, pid in zip(RECONCILERS, pids, strict=True)):
            fault.evidence = f"pids {pids} are gone"


def kill_dispatcher(run: Run) -> None:
    """SIGKILL the webhook dispatcher between the receiver's answer and the record of it (26)."""
    with run.ledger.fault("kill_dispatcher", "webhooks") as fault:
        pid = run.fleet.processes["webhooks"].pid
        run.hook.trigger = Trigger(lambda data: data.startswith(b"POST "), lambda: kill(run, "webhooks"))
        happened = within(15, lambda: run.hook.trigger is not None and run.hook.trigger.fired)
        run.hook.trigger = None
        if happened and run.fleet.restarted("webhooks", pid):
            fault.evidence = "killed after the receiver had answered"


def kill_batches(run: Run) -> None:
    """SIGKILL the process of batches at exchanges with Redis and S3: every line of a file is answered once."""
    with (
        run.ledger.fault("kill_batches", "batches") as fault,
        run.ledger.client(run.traffic.urls[0]) as http,
        suppress(httpx.HTTPError),  # refused, because the fault before still acts: this one is tried again
    ):
        id = batches.create(http, BATCH_LINES)
        kills = sum(_kill_batches_at(run, run.rng.randrange(1, 12)) for _ in range(BATCH_KILLS))
        if kills and within(BATCH_S, lambda: batches.is_answered(http, id, BATCH_LINES)):
            fault.evidence = f"killed {kills} times, and each of {BATCH_LINES} lines was answered once"


def _kill_batches_at(run: Run, step: int) -> bool:
    """Kill the process of batches before or after exchange `step` from now on; False where it made none."""
    pid, exchanges = run.fleet.processes["batches"].pid, count(1)
    when: Literal["before", "after"] = "before" if run.rng.random() < 0.5 else "after"
    trigger = Trigger(lambda data: is_command(data) and next(exchanges) >= step, lambda: kill(run, "batches"), when)
    proxies = run.fleet.proxies_of("redis", "batches") + run.fleet.proxies_of("s3", "batches")
    for proxy in proxies:
        proxy.trigger = trigger
    fired = within(15, lambda: trigger.fired)
    for proxy in proxies:
        proxy.trigger = None
    return fired and run.fleet.restarted("batches", pid)

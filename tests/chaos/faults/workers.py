"""Faults of vision workers and of the engine in them."""

import signal
from collections.abc import Callable

from tests.chaos.faults.base import Run, kill, process_state, within
from tests.chaos.fleet import LEASE_S, SLOTS, WORKERS, wait
from tests.chaos.proxy import Trigger

#: The reconciler leaves a new job's first hint to intake for 2 s, then publishes it itself.
DISPATCH_S = 3.0
POISON_S = 90.0  #: for three starts of a worker, on a busy machine, and for the jobs that it had


def kill_worker(run: Run) -> None:
    """SIGKILL in the middle of whatever it does (3)."""
    name = run.worker()
    with run.ledger.fault("kill_worker", name, costs_attempts=True) as fault:
        pid = run.kill(name)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} became {run.fleet.processes[name].pid}"


def freeze_worker(run: Run) -> None:
    """SIGSTOP past the lease, then SIGCONT: it thaws into a world that went on without it (4)."""
    name = run.worker()
    with run.ledger.fault("freeze_worker", name, costs_attempts=True) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        stopped = within(2, lambda: process_state(run.fleet.processes[name].pid) == "T")
        wait(LEASE_S + 1)
        run.fleet.kill(name, signal.SIGCONT)
        fault.evidence = "stopped, and went on" if stopped else ""


def stop_worker(run: Run) -> None:
    """SIGTERM: what does not end within the grace is given back uncharged (11, 12)."""
    name = run.worker()
    with run.ledger.fault("stop_worker", name, costs_attempts=True) as fault:
        pid = run.fleet.kill(name, signal.SIGTERM)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} ended when asked"


def lose_hints(run: Run) -> None:
    """SIGSTOP a worker, publish, SIGKILL it: BRPOP's reply goes to a dead socket, and the hint is lost (2)."""
    name = run.worker()
    with run.ledger.fault("lose_hints", name, costs_attempts=True) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        ids = [run.submit("plain") for _ in range(3)]
        pid = run.kill(name)
        if all(ids) and run.fleet.restarted(name, pid):
            fault.evidence = f"{len(ids)} jobs published meanwhile"


def kill_after_result(run: Run) -> None:
    """SIGKILL between the write of the object of a large result and the job's end (5)."""
    name = run.worker()
    _kill_at(run, "kill_after_result", name, "s3", lambda data: data.startswith(b"PUT ") and b"/result-" in data[:400])


def kill_after_finish(run: Run) -> None:
    """SIGKILL between the job's end in the store and the acknowledgement of its hint (6)."""
    name = run.worker()
    _kill_at(run, "kill_after_finish", name, "redis", lambda data: b"EVALSHA" in data and b"\r\nsucceeded\r\n" in data)


def lose_last_hints(run: Run) -> None:
    """Lose the broker's queue when no other hint follows, at the end of every run (1, 2).

    Workers that could take hints are stopped, the reconciler has published too, then the queue is deleted: what was
    published can come back only from an outbox that a job leaves by being claimed.
    """
    with run.ledger.fault("lose_last_hints", " and ".join(WORKERS), costs_attempts=True) as fault:
        for name in WORKERS:
            run.fleet.kill(name, signal.SIGSTOP)
        ids = [run.submit("plain") for _ in range(3)]
        wait(DISPATCH_S)
        with run.fleet.store() as client:
            queues = list(client.scan_iter(f"{run.fleet.prefix}mq:*", _type="list"))
            lost = client.delete(*queues) if queues else 0
        pids = [run.kill(name) for name in WORKERS]
        if lost and all(ids) and all(run.fleet.restarted(*pair) for pair in zip(WORKERS, pids, strict=True)):
            fault.evidence = f"{len(ids)} jobs were published, and the broker forgot its queue"


def _kill_at(run: Run, kind: str, name: str, side: str, matches: Callable[[bytes], bool]) -> None:
    proxy = run.fleet.proxies[f"{name}.{side}"]
    with run.ledger.fault(kind, name, costs_attempts=True) as fault:
        pid = run.fleet.processes[name].pid
        proxy.trigger = Trigger(matches, lambda: kill(run, name))
        happened = within(15, lambda: proxy.trigger is not None and proxy.trigger.fired)
        proxy.trigger = None
        if happened and run.fleet.restarted(name, pid):
            fault.evidence = "killed after the server's reply, which it never saw"


def poison(run: Run) -> None:
    """A job that kills every worker that touches it: `worker_lost` after exactly its attempts, others unharmed (7).

    Jobs that take longer than it begin just before it, so that they lose their worker with it.
    """
    with run.ledger.fault("poison", "vision workers", costs_attempts=True) as fault:
        for name in WORKERS:
            run.fleet.announce_death(name)
        beside = [run.submit("slow") for _ in range(SLOTS)]
        id = run.submit("poison")
        run.hard_kills += 3
        ended = within(POISON_S, lambda: _keep_announcing(run) and run.state(id) == "failed")
        answered = within(POISON_S, lambda: all(run.state(one) == "succeeded" for one in beside))
        for name in WORKERS:
            run.fleet.withdraw(name)
        fault.evidence = f"{id} failed, {len(beside)} jobs beside it were answered" if ended and answered else ""


def hang(run: Run) -> None:
    """An engine step that never ends: the watchdog ends the process, another worker answers (8)."""
    with run.ledger.fault("hang", "a vision worker", costs_attempts=True) as fault:
        for name in WORKERS:
            run.fleet.announce_death(name)
        run.hard_kills += 1
        pids = {name: run.fleet.processes[name].pid for name in WORKERS}
        id = run.submit("hang")
        died = within(30, lambda: any(run.fleet.processes[name].pid != pid for name, pid in pids.items()))
        ended = died and within(30, lambda: run.state(id) == "succeeded")
        for name in WORKERS:
            run.fleet.withdraw(name)
        fault.evidence = f"the watchdog ended a worker, {id} was answered" if ended else ""


def jump_clock(run: Run) -> None:
    """The wall clock of the workers jumps an hour ahead, then an hour back (24)."""
    with run.ledger.fault("jump_clock", "vision workers") as fault:
        for seconds in (3600, -3600):
            run.fleet.clock.write_text(str(seconds))
            id = run.submit("plain")
            if within(20, lambda id=id: run.state(id) == "succeeded"):  # type: ignore[misc]
                fault.evidence += f"answered {id} at {seconds:+d} s; "
        run.fleet.clock.write_text("0")


def _keep_announcing(run: Run) -> bool:
    for name in WORKERS:
        run.fleet.announce_death(name)
    return True

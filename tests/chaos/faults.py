"""The faults. Each is a function of the run; it names its target, lasts a while, heals, and gives evidence that it was.

Numbers in docstrings are those of the catalogue of fault injections that the harness was written after.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import httpx
import redis

from tests.chaos import batches
from tests.chaos.fleet import INTAKE_PROCESSES, INTAKES, LEASE_S, RECONCILERS, SLOTS, WORKERS, Fleet, wait
from tests.chaos.ledger import Fault, Kind, Ledger
from tests.chaos.proxy import FaultProxy, Network, Trigger
from tests.chaos.receiver import Mood, Receiver
from tests.chaos.traffic import Traffic
from tests.waiting import eventually


@dataclass
class Run:
    """Everything that a fault may touch."""

    fleet: Fleet
    network: Network
    ledger: Ledger
    traffic: Traffic
    receiver: Receiver
    hook: FaultProxy  #: in front of the receiver
    rng: random.Random
    hard_kills: int = 0  #: of processes that consume hints; each may strand what it held
    recovered: bool = False
    failovers: int = 0

    @property
    def store_name(self) -> str:
        """The process of the present primary."""
        return f"valkey-{self.failovers + 1}" if self.failovers else "valkey"

    def worker(self) -> str:
        """One of the vision workers."""
        return self.rng.choice(WORKERS)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill a process; it is started again."""
        if number is signal.SIGKILL and name in (*WORKERS, "webhooks"):
            self.hard_kills += 1
        return self.fleet.kill(name, number)

    def submit(self, kind: Kind, patience_s: float = 20) -> str:
        """Submit one job beside the traffic; its id, or "" where it was not taken."""
        with httpx.Client(timeout=6) as http:
            submission = self.traffic.submit(kind, http, patience_s=patience_s)
        return next(iter(submission.ids), "")

    def state(self, id: str) -> str:
        """The state of a job, or "" where there is no answer."""
        with httpx.Client(timeout=6) as http:
            job = self.traffic.look(id, http, self.rng.choice(self.traffic.urls))
        return job["state"] if job else ""


Inject = Callable[[Run], None]
#: The reconciler leaves a new job's first hint to intake for 2 s, then publishes it itself.
DISPATCH_S = 3.0
POISON_S = 90.0  #: for three starts of a worker, on a busy machine, and for the jobs that it had
BATCH_LINES = 40
BATCH_KILLS = 3
BATCH_S = 60.0  #: in which a batch must have ended
RECOVERY_S = 180.0  #: in which all records must be rebuilt
FAULTS: dict[str, Inject] = {}


def fault(inject: Inject) -> Inject:
    """Register a fault under its function's name."""
    FAULTS[inject.__name__] = inject
    return inject


# --- processes


@fault
def kill_worker(run: Run) -> None:
    """SIGKILL in the middle of whatever it does (3)."""
    name = run.worker()
    with run.ledger.fault("kill_worker", name, costs_attempts=True) as fault:
        pid = run.kill(name)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} became {run.fleet.processes[name].pid}"


@fault
def freeze_worker(run: Run) -> None:
    """SIGSTOP past the lease, then SIGCONT: it thaws into a world that went on without it (4)."""
    name = run.worker()
    with run.ledger.fault("freeze_worker", name, costs_attempts=True) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        stopped = _within(2, lambda: _process_state(run.fleet.processes[name].pid) == "T")
        wait(LEASE_S + 1)
        run.fleet.kill(name, signal.SIGCONT)
        fault.evidence = "stopped, and went on" if stopped else ""


@fault
def stop_worker(run: Run) -> None:
    """SIGTERM: what does not end within the grace is given back uncharged (11, 12)."""
    name = run.worker()
    with run.ledger.fault("stop_worker", name, costs_attempts=True) as fault:
        pid = run.fleet.kill(name, signal.SIGTERM)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} ended when asked"


@fault
def stop_another(run: Run) -> None:
    """SIGTERM to an intake, a reconciler or the dispatcher: what is under way ends, nothing is refused twice (12)."""
    name = run.rng.choice((*INTAKES, *RECONCILERS, "webhooks"))
    with run.ledger.fault("stop_another", name) as fault:
        pid = run.fleet.kill(name, signal.SIGTERM)
        if run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} ended when asked"


@fault
def freeze_another(run: Run) -> None:
    """SIGSTOP and SIGCONT of an intake, a reconciler or the dispatcher."""
    name = run.rng.choice((*INTAKES, *RECONCILERS, "webhooks"))
    with run.ledger.fault("freeze_another", name) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        stopped = _within(2, lambda: _process_state(run.fleet.processes[name].pid) == "T")
        wait(LEASE_S)
        run.fleet.kill(name, signal.SIGCONT)
        fault.evidence = "stopped, and went on" if stopped else ""


@fault
def lose_hints(run: Run) -> None:
    """SIGSTOP a worker, publish, SIGKILL it: BRPOP's reply goes to a dead socket, and the hint is lost (2)."""
    name = run.worker()
    with run.ledger.fault("lose_hints", name, costs_attempts=True) as fault:
        run.fleet.kill(name, signal.SIGSTOP)
        ids = [run.submit("plain") for _ in range(3)]
        pid = run.kill(name)
        if all(ids) and run.fleet.restarted(name, pid):
            fault.evidence = f"{len(ids)} jobs published meanwhile"


@fault
def kill_after_result(run: Run) -> None:
    """SIGKILL between the write of the object of a large result and the job's end (5)."""
    name = run.worker()
    _kill_at(run, "kill_after_result", name, "s3", lambda data: data.startswith(b"PUT ") and b"/result-" in data[:400])


@fault
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
        proxy.trigger = Trigger(matches, lambda: _kill(run, name))
        happened = _within(15, lambda: proxy.trigger is not None and proxy.trigger.fired)
        proxy.trigger = None
        if happened and run.fleet.restarted(name, pid):
            fault.evidence = "killed after the server's reply, which it never saw"


@fault
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


@fault
def kill_intake_at_every_step(run: Run) -> None:
    """Do the same at each step in turn, before and after it, until a submission gets through (13)."""
    with run.ledger.fault("kill_intake_at_every_step", " and ".join(INTAKES)) as fault:
        steps = [_kill_at_each(run, INTAKES[0], "before"), _kill_at_each(run, INTAKES[1], "after")]
        if all(step > 3 for step in steps):
            fault.evidence = f"killed before each of {steps[0]} exchanges, and after each of {steps[1]}"


def _kill_at_each(run: Run, name: str, when: Literal["before", "after"]) -> int:
    return next(step for step in range(1, 50) if not kill_intake_at(run, name, step, when)) - 1


def kill_intake_at(run: Run, name: str, step: int, when: Literal["before", "after"]) -> bool:
    """Kill `name` at exchange `step` while it takes one submission in; False when it answered before.

    An exchange is one chunk that it sends to Redis or S3, whatever for.
    """
    pid, url = run.fleet.processes[name].pid, run.traffic.urls[INTAKES.index(name)]
    exchanges = iter(range(1, 10**6))
    trigger = Trigger(lambda data: _is_command(data) and next(exchanges) >= step, lambda: _kill(run, name), when)
    proxies = run.fleet.proxies_of("redis", name) + run.fleet.proxies_of("s3", name)
    submission = run.traffic.new("image")
    with httpx.Client(timeout=6) as http:
        for proxy in proxies:
            proxy.trigger = trigger
        run.traffic.send(submission, http, url)
        for proxy in proxies:
            proxy.trigger = None
        if trigger.fired:
            run.fleet.restarted(name, pid)
    return trigger.fired  # the request is repeated at the end: the key of a dead intake is free again after seconds


@fault
def kill_intake_child(run: Run) -> None:
    """SIGKILL one of the processes that share a port: the others serve, and its supervisor starts another (13)."""
    name = INTAKES[1]
    with run.ledger.fault("kill_intake_child", f"a child of {name}") as fault:
        before = run.fleet.children(name)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        left = before - {killed}
        replaced = _within(20, lambda: bool(run.fleet.children(name) - before) and left < run.fleet.children(name))
        if len(before) == INTAKE_PROCESSES and replaced and run.fleet.is_ready(name):
            fault.evidence = f"pid {killed} of {sorted(before)} was replaced"


@fault
def kill_intake_supervisor(run: Run) -> None:
    """SIGKILL the supervisor of several processes: its children end too, and none keeps the port (13)."""
    name = INTAKES[1]
    with run.ledger.fault("kill_intake_supervisor", name) as fault:
        children = run.fleet.children(name)
        pid = run.fleet.kill(name, alone=True)
        gone = _within(20, lambda: not any(Path(f"/proc/{child}").exists() for child in children))
        if gone and run.fleet.restarted(name, pid):
            fault.evidence = f"pid {pid} and its children {sorted(children)} are gone"


def _is_command(data: bytes) -> bool:
    """Tell whether a chunk is a PUT or a Redis command of some length: scripts and publishing, no PING or INFO."""
    return data.startswith((b"PUT ", b"*")) and not data.startswith((b"*1\r\n", b"*2\r\n"))


@fault
def kill_reconciler(run: Run) -> None:
    """SIGKILL one of two, then both at once: repetition stops for a while, and costs only time (14)."""
    with run.ledger.fault("kill_reconciler", " and ".join(RECONCILERS)) as fault:
        pids = [run.fleet.kill(name) for name in RECONCILERS]
        if all(run.fleet.restarted(name, pid) for name, pid in zip(RECONCILERS, pids, strict=True)):
            fault.evidence = f"pids {pids} are gone"


@fault
def kill_dispatcher(run: Run) -> None:
    """SIGKILL the webhook dispatcher between the receiver's answer and the record of it (26)."""
    with run.ledger.fault("kill_dispatcher", "webhooks") as fault:
        pid = run.fleet.processes["webhooks"].pid
        run.hook.trigger = Trigger(lambda data: data.startswith(b"POST "), lambda: _kill(run, "webhooks"))
        happened = _within(15, lambda: run.hook.trigger is not None and run.hook.trigger.fired)
        run.hook.trigger = None
        if happened and run.fleet.restarted("webhooks", pid):
            fault.evidence = "killed after the receiver had answered"


@fault
def kill_batches(run: Run) -> None:
    """SIGKILL the process of batches at exchanges with Redis and S3: every line of a file is answered once."""
    with run.ledger.fault("kill_batches", "batches") as fault, httpx.Client(base_url=run.traffic.urls[0]) as http:
        id = batches.create(http, BATCH_LINES)
        kills = sum(_kill_batches_at(run, run.rng.randrange(1, 12)) for _ in range(BATCH_KILLS))
        if kills and _within(BATCH_S, lambda: batches.is_answered(http, id, BATCH_LINES)):
            fault.evidence = f"killed {kills} times, and each of {BATCH_LINES} lines was answered once"


def _kill_batches_at(run: Run, step: int) -> bool:
    """Kill the process of batches before or after exchange `step` from now on; False where it made none."""
    pid, exchanges = run.fleet.processes["batches"].pid, count(1)
    when: Literal["before", "after"] = "before" if run.rng.random() < 0.5 else "after"
    trigger = Trigger(lambda data: _is_command(data) and next(exchanges) >= step, lambda: _kill(run, "batches"), when)
    proxies = run.fleet.proxies_of("redis", "batches") + run.fleet.proxies_of("s3", "batches")
    for proxy in proxies:
        proxy.trigger = trigger
    fired = _within(15, lambda: trigger.fired)
    for proxy in proxies:
        proxy.trigger = None
    return fired and run.fleet.restarted("batches", pid)


@fault
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
        ended = _within(POISON_S, lambda: _keep_announcing(run) and run.state(id) == "failed")
        answered = _within(POISON_S, lambda: all(run.state(one) == "succeeded" for one in beside))
        for name in WORKERS:
            run.fleet.withdraw(name)
        fault.evidence = f"{id} failed, {len(beside)} jobs beside it were answered" if ended and answered else ""


@fault
def hang(run: Run) -> None:
    """An engine step that never ends: the watchdog ends the process, another worker answers (8)."""
    with run.ledger.fault("hang", "a vision worker", costs_attempts=True) as fault:
        for name in WORKERS:
            run.fleet.announce_death(name)
        run.hard_kills += 1
        pids = {name: run.fleet.processes[name].pid for name in WORKERS}
        id = run.submit("hang")
        died = _within(30, lambda: any(run.fleet.processes[name].pid != pid for name, pid in pids.items()))
        ended = died and _within(30, lambda: run.state(id) == "succeeded")
        for name in WORKERS:
            run.fleet.withdraw(name)
        fault.evidence = f"the watchdog ended a worker, {id} was answered" if ended else ""


@fault
def jump_clock(run: Run) -> None:
    """The wall clock of the workers jumps an hour ahead, then an hour back (24)."""
    with run.ledger.fault("jump_clock", "vision workers") as fault:
        for seconds in (3600, -3600):
            run.fleet.clock.write_text(str(seconds))
            id = run.submit("plain")
            if _within(20, lambda id=id: run.state(id) == "succeeded"):  # type: ignore[misc]
                fault.evidence += f"answered {id} at {seconds:+d} s; "
        run.fleet.clock.write_text("0")


# --- the job store


@fault
def restart_store(run: Run) -> None:
    """SIGKILL Valkey in the middle of everything, start it again a second later (15, 11b)."""
    with run.ledger.fault("restart_store", run.store_name, costs_attempts=True) as fault:
        with run.fleet.down(run.store_name) as pid:
            wait(1)
        if run.fleet.restarted(run.store_name, pid):
            fault.evidence = f"pid {pid} was killed"


@fault
def fill_store(run: Run) -> None:
    """No memory left (noeviction): submissions are 503, nothing is half done (20)."""
    with run.ledger.fault("fill_store", "valkey", costs_attempts=True) as fault, run.fleet.store() as client:
        client.config_set("maxmemory", 1)
        try:
            client.set("chaos", "x")
        except redis.RedisError as error:
            fault.evidence = str(error)[:60]
        wait(2)
        client.config_set("maxmemory", 0)


@fault
def lose_store(run: Run) -> None:
    """FLUSHALL, then `--recover` from the manifests in object storage (16)."""
    with run.ledger.fault("lose_store", "valkey", costs_attempts=True, loses_keys=True) as fault:
        with run.fleet.store() as client:
            before = client.dbsize()
            client.flushall()
        recovered = recover(run)
        run.recovered = True
        if recovered:
            fault.evidence = f"{before} keys were lost; {recovered}"


def recover(run: Run) -> str:
    """Rebuild the records as an operator would; what the command printed, or "" if it failed."""
    environment = {name: str(value) for name, value in run.fleet.environment.items()}
    command = [sys.executable, "-m", "workers.reconciler", "--recover"]
    environment["TILEQ_REDIS_URL"] = f"redis://127.0.0.1:{run.fleet.store_port}/0"
    env = {**_own_environment(), **environment}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=RECOVERY_S)
    except subprocess.TimeoutExpired:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return str(json.loads(lines[-1])) if done.returncode == 0 and lines else ""


@fault
def fail_over(run: Run) -> None:
    """A replica becomes the primary while jobs run; old connections still lead to the demoted server (21).

    New connections go to the new primary, as behind a service address. Within seconds every process must write there,
    although the server at the other end of its old connections is alive and answers READONLY.
    """
    with run.ledger.fault("fail_over", run.store_name, costs_attempts=True) as fault:
        run.failovers += 1
        port = run.fleet.start_replica(run.store_name)
        with run.fleet.store() as old:
            old.execute_command("FAILOVER", "TO", "127.0.0.1", port)  # waits until the replica has everything
            eventually(lambda: old.info("replication")["role"] == "slave", 20, 0.02)
        run.fleet.promoted(run.store_name, port)
        if all(_within(15, lambda url=url: _takes_ten(run, url)) for url in run.traffic.urls):  # type: ignore[misc]
            fault.evidence = f"port {port} took over; both intakes took ten jobs in a row"


@fault
def crash_over(run: Run) -> None:
    """The primary dies for good, and its replica takes over with what had reached it; then `--recover` runs (21).

    Replication is asynchronous: what the primary acknowledged in its last moment may be missing, and manifests bring
    such jobs back.
    """
    with run.ledger.fault("crash_over", run.store_name, costs_attempts=True, loses_keys=True) as fault:
        old = run.store_name
        run.failovers += 1
        port = run.fleet.start_replica(run.store_name)
        pid = run.fleet.retire(old)
        with redis.Redis(port=port, decode_responses=True) as replica:
            replica.replicaof("NO", "ONE")
        run.fleet.promoted(run.store_name, port)
        recovered = recover(run)
        if recovered and all(_within(15, lambda url=url: _takes_ten(run, url)) for url in run.traffic.urls):  # type: ignore[misc]
            fault.evidence = f"pid {pid} is gone, port {port} took over; {recovered}"


def _takes_ten(run: Run, url: str) -> bool:
    """Tell whether an intake takes ten jobs one after the other, and the last one is answered."""
    with httpx.Client(timeout=6) as http:
        some = [run.traffic.new("plain") for _ in range(10)]
        taken = [run.traffic.send(submission, http, url) for submission in some]
    return all(taken) and _within(10, lambda: run.state(next(iter(some[-1].ids))) == "succeeded")


# --- object storage


@fault
def s3_down(run: Run) -> None:
    """Object storage refuses every connection: submitting is 503, running jobs are retried (25)."""
    _of_storage(run, "s3_down", FaultProxy.cut, "refused")


@fault
def s3_slow(run: Run) -> None:
    """Object storage takes its time (25)."""

    def slow(proxy: FaultProxy) -> None:
        proxy.latency_s = 0.3

    _of_storage(run, "s3_slow", slow, "delayed")


@fault
def s3_busy(run: Run) -> None:
    """Object storage says 503 SlowDown (25)."""
    body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    _of_storage(run, "s3_busy", lambda proxy: proxy.refuse_http("503 Slow Down", body), "answered")


@fault
def s3_full(run: Run) -> None:
    """Object storage has no space left (27)."""
    body = "<Error><Code>InternalError</Code><Message>no space left on device</Message></Error>"
    _of_storage(run, "s3_full", lambda proxy: proxy.refuse_http("500 Internal Server Error", body), "answered")


@fault
def restart_storage(run: Run) -> None:
    """SIGKILL the object storage, start it again: what it acknowledged is there."""
    with run.ledger.fault("restart_storage", "seaweedfs", costs_attempts=True) as fault:
        with run.fleet.down("seaweedfs") as pid:
            wait(0.5)
        if run.fleet.restarted("seaweedfs", pid):
            fault.evidence = f"pid {pid} was killed"


def _of_storage(run: Run, name: str, break_it: Callable[[FaultProxy], None], counted: str) -> None:
    proxies = run.fleet.proxies_of("s3")
    with run.ledger.fault(name, "seaweedfs", costs_attempts=True) as fault:
        _break_and_heal(fault, proxies, break_it, counted, 2.5)


# --- the network


@fault
def cut_worker(run: Run) -> None:
    """A worker loses the network for longer than its lease (18)."""
    name = run.worker()
    with run.ledger.fault("cut_worker", name, costs_attempts=True) as fault:
        proxies = run.fleet.proxies_of("redis", name) + run.fleet.proxies_of("s3", name)
        _break_and_heal(fault, proxies, FaultProxy.cut, "refused", LEASE_S + 1)


@fault
def hold_store(run: Run) -> None:
    """Nothing answers on the way to the store, for everyone: a black hole (17, 18)."""
    with run.ledger.fault("hold_store", "all processes", costs_attempts=True) as fault:
        _break_and_heal(fault, run.fleet.proxies_of("redis"), FaultProxy.hold, "held", LEASE_S + 1)


@fault
def half_open(run: Run) -> None:
    """Connections to the store die without a word; new ones work (18)."""
    name = run.rng.choice((*INTAKES, *WORKERS, "webhooks"))
    with run.ledger.fault("half_open", name, costs_attempts=True) as fault:
        _break_and_heal(fault, run.fleet.proxies_of("redis", name), FaultProxy.strand, "held", LEASE_S)


@fault
def reset_store(run: Run) -> None:
    """Every connection to the store is reset in the middle of its reply (19)."""
    with run.ledger.fault("reset_store", "all processes", costs_attempts=True) as fault:
        _break_and_heal(fault, run.fleet.proxies_of("redis"), FaultProxy.reset, "reset", 0.2)


@fault
def slow_store(run: Run) -> None:
    """Each round trip to the store takes a quarter of a second more (19)."""

    def slow(proxy: FaultProxy) -> None:
        proxy.latency_s = 0.12

    with run.ledger.fault("slow_store", "all processes", costs_attempts=True) as fault:
        _break_and_heal(fault, run.fleet.proxies_of("redis"), slow, "delayed", 2.5)


# --- receivers


@fault
def receiver_down(run: Run) -> None:
    """The receiver refuses connections (26)."""
    with run.ledger.fault("receiver_down", "receiver") as fault:
        _break_and_heal(fault, [run.hook], FaultProxy.cut, "refused", 2)


@fault
def receiver_moody(run: Run) -> None:
    """The receiver is slower than the time-out, resets connections, answers 503 (61)."""
    with run.ledger.fault("receiver_moody", "receiver") as fault:
        moods: tuple[Mood, ...] = ("slow", "reset", "errors")
        for mood in moods:
            before = run.receiver.counts[mood]
            run.receiver.mood = mood
            if _within(6, lambda mood=mood, before=before: run.receiver.counts[mood] > before):  # type: ignore[misc]
                fault.evidence += f"{mood} "
        run.receiver.mood = "well"


# --- how


def _break_and_heal(
    fault: Fault, proxies: list[FaultProxy], break_it: Callable[[FaultProxy], None], counted: str, seconds: float
) -> None:
    before = sum(proxy.counts[counted] for proxy in proxies)
    for proxy in proxies:
        break_it(proxy)
    wait(seconds)
    if _within(8, lambda: sum(proxy.counts[counted] for proxy in proxies) > before):
        fault.evidence = f"{sum(proxy.counts[counted] for proxy in proxies) - before} {counted}"
    for proxy in proxies:
        proxy.heal()


def _kill(run: Run, name: str) -> None:
    with suppress(ProcessLookupError):
        run.kill(name)


def _keep_announcing(run: Run) -> bool:
    for name in WORKERS:
        run.fleet.announce_death(name)
    return True


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    try:
        return eventually(holds, seconds, 0.05)
    except AssertionError:
        return False


def _process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TILEQ_")}

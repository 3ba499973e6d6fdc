"""Faults of the job store."""

import json
import os
import subprocess
import sys

import redis

from tests.chaos.faults.base import Run, within
from tests.chaos.fleet import wait
from tests.waiting import eventually

RECOVERY_S = 180.0  #: in which all records must be rebuilt


def restart_store(run: Run) -> None:
    """SIGKILL Valkey in the middle of everything, start it again a second later (15, 11b)."""
    with run.ledger.fault("restart_store", run.store_name, costs_attempts=True) as fault:
        with run.fleet.down(run.store_name) as pid:
            wait(1)
        if run.fleet.restarted(run.store_name, pid):
            fault.evidence = f"pid {pid} was killed"


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
        if all(within(15, lambda url=url: _takes_ten(run, url)) for url in run.traffic.urls):  # type: ignore[misc]
            fault.evidence = f"port {port} took over; both intakes took ten jobs in a row"


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
        if recovered and all(within(15, lambda url=url: _takes_ten(run, url)) for url in run.traffic.urls):  # type: ignore[misc]
            fault.evidence = f"pid {pid} is gone, port {port} took over; {recovered}"


def _takes_ten(run: Run, url: str) -> bool:
    """Tell whether an intake takes ten jobs one after the other, and the last one is answered."""
    with run.ledger.client() as http:
        some = [run.traffic.new("plain") for _ in range(10)]
        taken = [run.traffic.send(submission, http, url) for submission in some]
    return all(taken) and within(10, lambda: run.state(next(iter(some[-1].ids))) == "succeeded")


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TILEQ_")}

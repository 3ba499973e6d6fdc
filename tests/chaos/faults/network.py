"""Faults of the network between processes and the store."""

from tests.chaos.faults.base import Run, break_and_heal
from tests.chaos.fleet import INTAKES, LEASE_S, WORKERS
from tests.chaos.proxy import FaultProxy


def cut_worker(run: Run) -> None:
    """A worker loses the network for longer than its lease (18)."""
    name = run.worker()
    with run.ledger.fault("cut_worker", name, costs_attempts=True) as fault:
        proxies = run.fleet.proxies_of("redis", name) + run.fleet.proxies_of("s3", name)
        break_and_heal(fault, proxies, FaultProxy.cut, "refused", LEASE_S + 1)


def hold_store(run: Run) -> None:
    """Nothing answers on the way to the store, for everyone: a black hole (17, 18)."""
    with run.ledger.fault("hold_store", "all processes", costs_attempts=True) as fault:
        break_and_heal(fault, run.fleet.proxies_of("redis"), FaultProxy.hold, "held", LEASE_S + 1)


def half_open(run: Run) -> None:
    """Connections to the store die without a word; new ones work (18)."""
    name = run.rng.choice((*INTAKES, *WORKERS, "webhooks"))
    with run.ledger.fault("half_open", name, costs_attempts=True) as fault:
        break_and_heal(fault, run.fleet.proxies_of("redis", name), FaultProxy.strand, "held", LEASE_S)


def reset_store(run: Run) -> None:
    """Every connection to the store is reset in the middle of its reply (19)."""
    with run.ledger.fault("reset_store", "all processes", costs_attempts=True) as fault:
        break_and_heal(fault, run.fleet.proxies_of("redis"), FaultProxy.reset, "reset", 0.2)


def slow_store(run: Run) -> None:
    """Each round trip to the store takes a quarter of a second more (19)."""

    def slow(proxy: FaultProxy) -> None:
        proxy.latency_s = 0.12

    with run.ledger.fault("slow_store", "all processes", costs_attempts=True) as fault:
        break_and_heal(fault, run.fleet.proxies_of("redis"), slow, "delayed", 2.5)

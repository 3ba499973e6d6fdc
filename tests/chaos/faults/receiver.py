"""Faults of the receiver of webhooks."""

from tests.chaos.faults.base import Run, break_and_heal, within
from tests.chaos.proxy import FaultProxy
from tests.chaos.receiver import Mood


def receiver_down(run: Run) -> None:
    """The receiver refuses connections (26)."""
    with run.ledger.fault("receiver_down", "receiver") as fault:
        break_and_heal(fault, [run.hook], FaultProxy.cut, "refused", 2)


def receiver_moody(run: Run) -> None:
    """The receiver is slower than the time-out, resets connections, answers 503 (61)."""
    with run.ledger.fault("receiver_moody", "receiver") as fault:
        moods: tuple[Mood, ...] = ("slow", "reset", "errors")
        for mood in moods:
            before = run.receiver.counts[mood]
            run.receiver.mood = mood
            if within(6, lambda mood=mood, before=before: run.receiver.counts[mood] > before):  # type: ignore[misc]
                fault.evidence += f"{mood} "
        run.receiver.mood = "well"

"""`make bench-peers`: the tables of speed and of kills; `--only tileq` needs no peer."""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence

from tests.bench.accept import jpeg, machine
from tests.bench.figures import at_least, at_most
from tests.bench.peers import kills
from tests.bench.peers.speed import Measurement
from tests.bench.peers.systems import PEERS, peers_installed, started

Figures = dict[str, list[float]]
#: Beside Celery: how a figure's name begins, the ratio that it is to keep.
GOALS = (
    ("jobs/s", 1.2, at_least),
    ("CPU ms a job", 0.8, at_most),
    ("accepted/s", 1.1, at_least),
    ("submit to result, idle", 1.0, at_most),
)


def main() -> None:
    """Measure in alternating rounds and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=["tileq", *PEERS], default=["tileq", *PEERS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400, help="with many clients in one round")
    parser.add_argument("--skip-kills", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    chosen = parser.parse_args()
    if set(chosen.only) & set(PEERS) and not peers_installed():
        raise SystemExit("the peers are not installed: `make bench-peers` does it; or give --only tileq")
    image = jpeg()
    print(f"{time.strftime('%d %B %Y')}, {machine()}, load {os.getloadavg()[0]:.1f}, image of {len(image)} bytes\n")
    if not chosen.skip_speed:
        found = measure(chosen.only, chosen.rounds, chosen.jobs, image)
        print("\n".join(speed_table(found)), flush=True)
        note_goals(found)
    if not chosen.skip_kills:
        print("\n".join(kill_table(chosen.only, image)), flush=True)


def measure(names: Sequence[str], rounds: int, jobs: int, image: bytes) -> dict[str, Figures]:
    """Every system once a round, each time from an empty start."""
    found: dict[str, Figures] = {name: {} for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            with started(name) as system:
                for figure, value in Measurement(system, image).run(jobs).items():
                    found[name].setdefault(figure, []).append(value)
            print(f"round {number + 1}, {name} done, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def speed_table(found: dict[str, Figures]) -> Iterator[str]:
    """Medians of the rounds, and tileq's ratio to Celery's."""
    names, both = list(found), {"tileq", "celery"} <= set(found)
    yield f"| medians | {' | '.join(names)} |{' tileq : celery |' if both else ''}"
    yield "|---" * (len(names) + 1 + both) + "|"
    for figure in dict.fromkeys(figure for figures in found.values() for figure in figures):
        medians = {name: statistics.median(figures[figure]) for name, figures in found.items() if figure in figures}
        cells = [f"{medians[name]:.1f}" if name in medians else "" for name in names]
        ratio = medians["tileq"] / medians["celery"] if {"tileq", "celery"} <= medians.keys() else None
        yield f"| {figure} | {' | '.join(cells)} |" + ((f" {ratio:.2f} |" if ratio else " |") if both else "")


def note_goals(found: dict[str, Figures]) -> None:
    """Note what tileq's figures are beside Celery's."""
    if not {"tileq", "celery"} <= set(found):
        return
    ours, theirs = (
        {figure: statistics.median(values) for figure, values in found[name].items()} for name in ("tileq", "celery")
    )
    for start, bound, note in GOALS:
        (figure,) = [figure for figure in theirs if figure.startswith(start)]
        note(f"{figure}, beside Celery + FastAPI", ours[figure] / theirs[figure], bound)
    delay = "webhook from the end, idle, p50 ms"
    at_most(delay.removesuffix(" ms"), ours[delay], 5, "ms")


def kill_table(names: Sequence[str], image: bytes) -> Iterator[str]:
    """What 200 jobs become."""
    yield f"\n| {kills.JOBS} jobs | SIGKILL of the worker | SIGKILL of the store |"
    yield "|---|---|---|"
    for name in names:
        outcomes = []
        for kill in (kills.kill_worker, kills.kill_store):
            with started(name, kills.JOB_S[name]) as system:
                outcomes.append(str(kill(system, image)))
        yield f"| {name}, {kills.JOB_S[name]:g} s each | {' | '.join(outcomes)} |"


if __name__ == "__main__":
    main()

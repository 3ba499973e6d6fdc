"""`make chaos MINUTES=30 SEED=7`, or `python -m tests.chaos --smoke`: exits 1 when anything was violated."""

import argparse
import sys
from pathlib import Path

from tests.chaos.faults.catalogue import FAULTS
from tests.chaos.run import chaos

SMOKE_S = 100.0  #: of faults; with start, drain and verdict below three minutes on two cores
SMOKE_SEED = 7
TOO_LONG = ("kill_intake_at_every_step",)  #: for the smoke, which kills it at one step


def main() -> int:
    """Run, print the report and the verdict's line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=SMOKE_SEED)
    parser.add_argument(
        "--smoke", action="store_true", help="a fixed seed, each fault at most once, below three minutes"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], choices=list(FAULTS), metavar="FAULT", help="these faults alone"
    )
    parser.add_argument("--folder", type=Path, help="keep data and logs here")
    arguments = parser.parse_args()
    if arguments.smoke:
        names = arguments.only or [name for name in FAULTS if name not in TOO_LONG]
        verdict = chaos(SMOKE_S, SMOKE_SEED, _say, names=names, rounds=1, folder=arguments.folder)
    else:
        verdict = chaos(60 * arguments.minutes, arguments.seed, _say, names=arguments.only, folder=arguments.folder)
    print(verdict.line, flush=True)
    return 1 if verdict.violations else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""`make fuzz FILES=20000 SEED=7`: exits 1 when a damaged image did what none may do."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.run import fuzz


def main() -> int:
    """Run, print the report and its line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for files that violate something")
    chosen = parser.parse_args()
    report = fuzz(chosen.files, chosen.seed, chosen.processes, chosen.keep, lambda line: print(line, flush=True))
    print("\n".join([*report.violations, report.line]), flush=True)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())

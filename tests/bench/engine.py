"""`make bench-engine`: what the engines take for vision, prefill, decoding, many requests and second rounds.

Mini's shapes with random weights; tileq's engines and the peers that are asked for, each in a process of its own. All
of them stay loaded and measure in turn, a figure each, so that what disturbs the machine for a minute disturbs every
side. The figures depend on the machine and on what else runs on it: the load is printed beside them.

    python -m tests.bench.engine --sides resident-int8                 one side alone, quantised
    make bench-engine PEERS=1 ARGS='--sides resident resident-int4'    beside vLLM, llama.cpp and OpenVINO
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator

import torch

from tests.bench.accept import machine
from tests.bench.engine_peers import environments, stages
from tests.bench.engine_peers.environments import PEERS, Figure, Peer, PeerUnavailable
from tests.bench.engine_peers.stages import PARTS, Plan, Precision
from tests.bench.figures import at_least
from tests.bench.measured_engine import Taken
from workers.vision.bench.random_model import MINI, Kind

OURS: dict[str, tuple[Kind, Precision]] = {
    "transformers": ("transformers", "bfloat16"),
    "resident": ("resident", "bfloat16"),
    "resident-int8": ("resident", "int8"),
    "resident-int4": ("resident", "int4"),
}
THEIRS: dict[str, tuple[Peer, Precision]] = {
    name if precision == "bfloat16" else f"{name}-{precision}": (peer, precision)
    for name, peer in PEERS.items()
    for precision in peer.precisions
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sides", nargs="+", choices=[*OURS, *THEIRS], default=["transformers", "resident"])
    parser.add_argument("--peers", action="store_true", help="all of them too, in the precisions of --sides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiles", type=int, default=7, help="of the large image")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; all takes long")
    chosen = parser.parse_args()
    precisions = {OURS[side][1] for side in chosen.sides if side in OURS}
    chosen.text = chosen.peers or bool(set(chosen.sides) & set(THEIRS))  # prompts as peers without a tower serve them
    peers = [name for name, (_, precision) in THEIRS.items() if chosen.peers and precision in precisions]
    print(f"{time.strftime('%d %B %Y')}, {machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    found = in_turn({name: side(name, chosen) for name in dict.fromkeys([*chosen.sides, *peers])})
    print("\n".join(table(found)))
    if "transformers" in found:
        note_goals(found, chosen.requests, chosen.tiles)


def side(name: str, chosen: argparse.Namespace) -> Iterator[Figure]:
    """The figures of one of tileq's engines or of a peer. Raises `PeerUnavailable`."""
    sizes = (chosen.requests, chosen.rounds, chosen.tiles, os.cpu_count() or 1, list(chosen.parts))
    if name in THEIRS:
        peer, precision = THEIRS[name]
        return environments.measure(peer, Plan(MINI, peer.folder / "models", precision, *sizes))
    kind, precision = OURS[name]
    plan = Plan(MINI, environments.ROOT, precision, *sizes)
    command = [sys.executable, "-m", "tests.bench.engine_side", plan.written(), kind, chosen.device, chosen.dtype]
    return environments.figures([*command, *["--text"] * chosen.text], plan.folder / f"{name}.txt")


def in_turn(sides: dict[str, Iterator[Figure]]) -> dict[str, Taken]:
    """A figure of each side, then the next one of each, until all have ended. What can't be measured says why."""
    found: dict[str, Taken] = {name: {} for name in sides}
    while sides:
        for name, figures in list(sides.items()):
            try:
                stage, value = next(figures)
            except (StopIteration, PeerUnavailable) as end:
                del sides[name]
                print(f"{name} done {end}, load {os.getloadavg()[0]:.1f}", flush=True)
            else:
                found[name].setdefault(stage, []).append(value)
    return found


def note_goals(found: dict[str, Taken], requests: int, tiles: int) -> None:
    """Note how many times as fast as the stock model the resident engine is."""
    small, large = stages.prompt_tokens(1), stages.prompt_tokens(tiles)
    bounds = {
        ("resident", stages.vision(1)): 1.0,
        ("resident", stages.vision(tiles)): 1.0,
        ("resident", stages.prefill(small)): 1.8,
        ("resident", stages.prefill(large)): 1.0,
        ("resident", stages.decode(small)): 1.7,
        ("resident", stages.decode(large)): 1.0,
        ("resident", stages.together(requests)): 4.0,
        ("resident", stages.second_round(tiles)): 50.0,
        ("resident-int8", stages.decode(small)): 3.5,
        ("resident-int4", stages.decode(small)): 6.0,
    }
    for (side, stage), bound in bounds.items():
        if stage in found.get(side, {}) and stage in found["transformers"]:
            ours, theirs = best(stage, found[side][stage]), best(stage, found["transformers"][stage])
            faster = ours / theirs if stages.is_rate(stage) else theirs / ours
            at_least(f"{side} beside transformers, {stage.rpartition(':')[0]}", faster, bound)
    stage = stages.decode_together(requests)
    if stage in found.get("resident", {}):
        alone = max(found["transformers"][stages.decode(small)])
        at_least(
            f"resident, {stage.rpartition(':')[0]} beside one of transformers",
            max(found["resident"][stage]) / alone,
            14,
        )


def table(found: dict[str, Taken]) -> Iterator[str]:
    """Markdown: the best of each stage, and all of them where there are several."""
    yield f"| stage | {' | '.join(found)} |"
    yield "|---" * (len(found) + 1) + "|"
    for stage in dict.fromkeys(stage for taken in found.values() for stage in taken):
        yield f"| {stage} | {' | '.join(_cell(stage, taken.get(stage, [])) for taken in found.values())} |"


def best(stage: str, values: list[float]) -> float:
    """The fastest."""
    return max(values) if stages.is_rate(stage) else min(values)


def _cell(stage: str, values: list[float]) -> str:
    if not values:
        return "-"
    every = f" ({', '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else ""
    return f"{best(stage, values):.2f}{every}"


if __name__ == "__main__":
    main()

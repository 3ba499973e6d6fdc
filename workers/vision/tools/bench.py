"""Measures the engines on this machine: throughput, latency, decoding, and each fast path beside its twin.

tileq bench --device cuda                  random weights in the shapes of Mini-InternVL 1.5 (2.2 B parameters)
tileq bench --device cuda --model MODEL    a checkpoint: a folder, org/name@revision or s3://bucket/prefix
tileq bench --device cpu --small           the same in seconds, on a toy model: whether it runs, not how fast

Goals are for an H200 with 64 jobs of 128 tokens. Answers of a checkpoint may end earlier, as its tokens/s tell.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Lines

from shared.environment import read_settings
from shared.settings.base import SettingsError
from workers.vision.bench import goals, random_model
from workers.vision.bench.device_facts import device_facts
from workers.vision.bench.measure import Requests
from workers.vision.bench.random_model import MINI, SMALL, Kind, shapes
from workers.vision.bench.table import Load, Table, measure
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.engine.base import Engine
from workers.vision.engine.errors import EngineError, OutOfMemory
from workers.vision.engine.factory import find_checkpoint, make_engine
from workers.vision.engine.torch_errors import translate
from workers.vision.model.device import choose_device, choose_dtype
from workers.vision.prompts import IMAGE_CONTEXT

FULL = Load(goals.JOBS, goals.NEW_TOKENS, tuple(goals.JOBS_PER_SECOND), baseline_jobs=3)
TOY = Load(jobs=3, new=4, tiles=(1, 2), baseline_jobs=1)


def main() -> int:
    """Measure as the command line says. An error is one line on stderr, after the figures that came before it."""
    chosen = _arguments()
    table, failure = Table(), ""
    try:
        device = torch.device(choose_device(chosen.device))
        dtype = choose_dtype(chosen.dtype, str(device))
        judged = device.type == "cuda" and not (chosen.model or chosen.small)
        with _translated():
            start, requests = _checkpoint(chosen, dtype) if chosen.model else _random(chosen, device, dtype)
            measure(table, start, requests, _load(chosen), judged, _note)
    except OutOfMemory as error:
        failure = f"out of memory: {error}; ask for less with --jobs or --tiles"
    except (CheckpointError, SettingsError, EngineError) as error:
        failure = str(error)
    if table.figures:
        facts = {"model": chosen.model or f"random weights, {'toy' if chosen.small else 'Mini'} shapes"}
        _print(table, facts | device_facts(device, dtype), chosen.json)
    if failure:
        _note(failure)
    return 1 if failure else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tileq bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"])
    parser.add_argument("--model", default="", help="empty: random weights")
    parser.add_argument("--small", action="store_true", help="a toy model and few jobs")
    parser.add_argument("--jobs", type=_positive, help=f"at once, {FULL.jobs} if not given")
    parser.add_argument("--new", type=_positive, help=f"tokens of an answer, {FULL.new} if not given")
    parser.add_argument("--tiles", type=_positive, nargs="+", help="of a job, if not given 1 7 13 41")
    parser.add_argument("--baseline-jobs", type=int, help="of the transformers engine; 0 leaves it out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _load(chosen: argparse.Namespace) -> Load:
    usual = TOY if chosen.small else FULL
    baseline = usual.baseline_jobs if chosen.baseline_jobs is None else chosen.baseline_jobs
    return Load(chosen.jobs or usual.jobs, chosen.new or usual.new, chosen.tiles or usual.tiles, baseline)


def _random(
    chosen: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[Kind], Engine], Requests]:
    sizes = SMALL if chosen.small else MINI
    config, tokenizer = shapes(sizes)
    start = partial(random_model.make_engine, sizes=sizes, device=device, dtype=dtype, report=_note)
    return start, Requests(config, tokenizer.token_id(IMAGE_CONTEXT))


def _checkpoint(chosen: argparse.Namespace, dtype: torch.dtype) -> tuple[Callable[[Kind], Engine], Requests]:
    named = {"model": chosen.model, "device": chosen.device, "quantise": "none"}
    settings = read_settings().model_copy(update=named | {"dtype": str(dtype).removeprefix("torch.")})
    checkpoint = find_checkpoint(settings, _note)

    def start(kind: Kind) -> Engine:
        return make_engine(settings.model_copy(update={"engine": kind}), _note).engine

    return start, Requests(checkpoint.config, checkpoint.tokenizer.token_id(IMAGE_CONTEXT))


def _print(table: Table, facts: dict[str, str], as_json: bool) -> None:
    if as_json:
        found: dict[str, Any] = {"machine": facts}
        found["figures"] = [asdict(figure) | {"met": figure.met} for figure in table.figures]
        found["fast_paths"] = [asdict(path) for path in table.paths]
        print(json.dumps(found))  # noqa: T201 - a command's output
        return
    lines = Lines()
    for column in ("", "measured", "goal (H200)", ""):
        lines.add_column(column)
    for figure in table.figures:
        lines.add_row(*figure.row())
    console = Console(soft_wrap=True)
    for name, value in facts.items():
        console.print(f"{name:7} {value}", markup=False, highlight=False)
    console.print(lines, highlight=False)
    for path in table.paths:
        console.print(f"fast path {path}", markup=False, highlight=False)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what torch raises as the engine's errors: out of memory while loading, too."""
    try:
        yield
    except Exception as error:
        raise translate(error) from None


def _note(line: str) -> None:
    print(f"tileq: {line}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

"""Terminal output: answers on stdout, everything else on stderr, no control characters from models or servers."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

_COLOURS = {"succeeded": "green", "failed": "red", "expired": "red", "cancelled": "yellow", "running": "cyan"}


def note(line: str) -> None:
    """Print a status line on stderr."""
    print(f"tileq: {clean(line)}", file=sys.stderr, flush=True)


def clean(text: str) -> str:
    """Return `text` without control characters, which a terminal would execute."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def as_json(value: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def counted(number: int, noun: str) -> str:
    """Return `1 tile`, `7 tiles`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answer(job: Mapping[str, Any]) -> None:
    """Print the text of a job that succeeded."""
    text = str((job.get("output") or {}).get("text", ""))
    print(clean(text) if sys.stdout.isatty() else text, flush=True)


def failure_line(job: Mapping[str, Any]) -> str:
    """Return one line about a job that ended without an answer."""
    error = job.get("error") or {}
    image = f" (image {error['image']})" if error.get("image") is not None else ""
    reason = f": {error['code']}: {error['message']}{image}" if error else ""
    return f"{job['id']} {job['state']}{reason}"


def state_line(job: Mapping[str, Any]) -> str:
    """Return one line about the progress of a job."""
    state = str(job["state"])
    progress = job.get("progress") or {}
    if state == "queued":
        waiting = job.get("queue_position")
        return "queued" + (f", {waiting} ahead" if waiting else "")
    if state != "running":
        return state
    parts = [f"running: {progress.get('stage') or 'starting'}"]
    if progress.get("tiles"):
        parts.append(counted(progress["tiles"], "tile"))
    if progress.get("prompt_tokens"):
        parts.append(counted(progress["prompt_tokens"], "prompt token"))
    if job.get("attempt", 1) > 1:
        parts.append(f"attempt {job['attempt']} of {job['max_attempts']}")
    return ", ".join(parts)


def summary(job: Mapping[str, Any]) -> str:
    """Return one line of figures about an ended job."""
    usage, timings = job.get("usage") or {}, job.get("timings") or {}
    parts = []
    if usage:
        parts.append(f"{counted(usage['prompt_tokens'], 'prompt token')} ({usage['image_tokens']} of images)")
        parts.append(f"{usage['completion_tokens']} generated")
    if timings.get("first_token") is not None:
        parts.append(f"first token after {timings['first_token']:.2f} s")
    if timings.get("total") is not None:
        parts.append(f"{timings['total']:.2f} s in all")
    return ", ".join(parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; on a terminal its cells are folded to the width."""
    lines = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        lines.add_column(column, overflow="fold")
    for row in rows:
        lines.add_row(*(_cell(value) for value in row))
    grid(lines)


def grid(lines: Table) -> None:
    """Print a rich table without trailing spaces."""
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    with console.capture() as captured:
        console.print(lines, highlight=False)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def job_facts(job: Mapping[str, Any]) -> None:
    """Print the fields of a job as a table."""
    facts: list[tuple[str, object]] = [("id", job["id"]), ("state", state_line(job)), ("model", job["model"])]
    facts += [(name, job[name]) for name in ("created_at", "started_at", "ended_at", "expires_at") if job.get(name)]
    facts += [
        (f"image {n}", f"{image['media_type']} {image['width']}x{image['height']}, {_grid(image)}")
        for n, image in enumerate(job.get("images") or [])
    ]
    hook = job.get("webhook") or {}
    if hook.get("url"):
        facts.append(("webhook", f"{hook['state']}, {counted(hook['attempts'], 'attempt')}, {hook['url']}"))
    facts += [(f"metadata {name}", value) for name, value in (job.get("metadata") or {}).items()]
    facts += [(name, job[name]) for name in ("parent", "batch", "retry_of") if job.get(name)]
    if figures := summary(job):
        facts.append(("figures", figures))
    if job.get("error"):
        facts.append(("error", f"{job['error']['code']}: {job['error']['message']}"))
    if job.get("output"):
        facts.append(("answer", job["output"]["text"]))
    table(("", ""), facts)


def _grid(image: Mapping[str, Any]) -> str:
    columns, rows = image["grid"]
    return f"{columns}x{rows} grid, {counted(image['tiles'], 'tile')}"


def _cell(value: object) -> Text:
    text = clean("" if value is None else str(value))
    return Text(text, style=_COLOURS.get(text, ""))

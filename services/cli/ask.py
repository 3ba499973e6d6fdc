"""`tileq ask` and `tileq submit`: pictures and a question become a job."""

import mimetypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import Api, Json, Picture
from services.cli.failure import Failure, Usage
from services.cli.options import URL, AsJson, Url, api

Command = Callable[..., None]

Words = Annotated[
    list[str],
    typer.Argument(metavar="[IMAGE]... QUESTION", help="Picture files (- reads one from stdin), then a question."),
]
Choice = Annotated[str | None, typer.Option(help="Model; `tileq models` lists them.")]
TileCounts = Annotated[
    str | None, typer.Option(metavar="N[,N…]", help="Tiles a picture, 1 to 40: one number or one each.")
]
Thumbnail = Annotated[
    bool | None, typer.Option("--thumbnail/--no-thumbnail", help="A small whole view beside the tiles.")
]
Parent = Annotated[str | None, typer.Option(metavar="JOB", help="Go on with this job's conversation and pictures.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens with this much probability together.")]
Seed = Annotated[int | None, typer.Option(help="Repeats a sampled answer.")]
Stop = Annotated[list[str], typer.Option(metavar="TEXT", help="End the answer in front of this text. May be repeated.")]
Hook = Annotated[str | None, typer.Option("--webhook", metavar="URL", help="Where the signed webhook goes.")]
Metadata = Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Echoed everywhere. May be repeated.")]
Priority = Annotated[str | None, typer.Option(help="high, normal or low.")]
StartWithin = Annotated[float | None, typer.Option(metavar="SECONDS", help="Expire if nobody started by then.")]
RunWithin = Annotated[float | None, typer.Option(metavar="SECONDS", help="Fail if not done by then.")]


def submitting(then: Callable[[Api, Json, bool], None]) -> Command:
    """Return a command that submits a job and hands it to `then`, with whether JSON is wanted."""

    def command(
        words: Words,
        *,
        model: Choice = None,
        tiles: TileCounts = None,
        thumbnail: Thumbnail = None,
        parent: Parent = None,
        max_new_tokens: MaxNewTokens = None,
        temperature: Temperature = None,
        top_p: TopP = None,
        seed: Seed = None,
        stop: Stop = [],  # noqa: B006  # typer copies it
        webhook: Hook = None,
        metadata: Metadata = [],  # noqa: B006
        priority: Priority = None,
        start_within: StartWithin = None,
        run_within: RunWithin = None,
        url: Url = URL,
        json: AsJson = False,
    ) -> None:
        *images, question = words
        generation = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop or None,
        }
        request = {
            "prompt": question,
            "model": model,
            "tiles": _tiles(tiles),
            "thumbnail": thumbnail,
            "parent": parent,
            "generation": _given(generation) or None,
            "webhook": {"url": webhook} if webhook else None,
            "metadata": _pairs(metadata) or None,
            "priority": priority,
            "start_within": start_within,
            "run_within": run_within,
        }
        _refuse_forgotten_question(question)
        pictures = [_picture(name) for name in images]
        with api(url) as service:
            then(service, service.submit(_given(request), pictures), json)

    return command


def show_until_end(service: Api, job: Json, as_json: bool) -> None:
    """Show states and text as they come, then the answer; raise if there is none."""
    live = sys.stdout.isatty() and not as_json
    show.note(f"{job['id']} taken in" + "".join(f", {image['tiles']} tiles" for image in job.get("images") or []))
    told, wrote = "", False
    try:
        for event in service.follow(job["id"]):
            if event.kind == "end":
                job = event.data
            elif event.kind == "state" and (line := show.state_line(event.data)) != told:
                told = line
                if not wrote:
                    show.note(line)
            elif event.kind == "reset" and wrote:
                sys.stdout.write("\n")
                show.note("a new attempt begins; what stands above is void")
                wrote = False
            elif event.kind == "delta" and live:
                sys.stdout.write(show.clean(event.data["text"]))
                sys.stdout.flush()
                wrote = True
    except KeyboardInterrupt:
        print(file=sys.stderr)
        show.note(f"{job['id']} goes on; `tileq wait {job['id']}` waits for it, `tileq cancel {job['id']}` stops it")
        raise
    if wrote:
        sys.stdout.write("\n")
    finish(job, as_json, printed=wrote)


def finish(job: Json, as_json: bool, *, printed: bool = False) -> None:
    """Print what an ended job came to; raise if that is not an answer."""
    if as_json:
        show.as_json(job)
    if job["state"] != "succeeded":
        raise Failure(show.why(job))
    if not as_json and not printed:
        show.answer(job)
    if (job.get("output") or {}).get("finish_reason") == "length":
        show.note("the answer was cut at its longest; give more with --max-new-tokens")
    if figures := show.summary(job):
        show.note(figures)


def print_id(_: Api, job: Json, as_json: bool) -> None:
    """Print what was taken in."""
    if as_json:
        show.as_json(job)
    else:
        print(job["id"])


def _picture(name: str) -> Picture:
    if name == "-":
        data = sys.stdin.buffer.read()
        if not data:
            raise Usage("stdin held no picture")
        return Picture("stdin", data)
    try:
        return Picture(Path(name).name, Path(name).read_bytes())
    except OSError as error:
        hint = "; put a question of several words in quotes" if " " not in name and not Path(name).suffix else ""
        raise Usage(f"can't read the picture {name}: {error.strerror or error}{hint}") from None


def _refuse_forgotten_question(question: str) -> None:
    kind = mimetypes.guess_type(question)[0] or ""
    if question == "-" or (kind.startswith("image/") and " " not in question):
        raise Usage(f'{question} is a picture; the question is missing: tileq ask {question} "What is this?"')


def _tiles(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise Usage(f"--tiles takes one number or several with commas, not {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _pairs(entries: list[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise Usage(f"--metadata takes KEY=VALUE, not {entry!r}")
        pairs[name] = value
    return pairs


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

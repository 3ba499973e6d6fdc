"""`tileq ask` and `tileq submit`: images and a question become a job."""

import mimetypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.client import ApiClient, ImageFile, Json
from services.cli.errors import CommandError, UsageError
from services.cli.options import URL, AsJson, Url, api

Command = Callable[..., None]

Words = Annotated[
    list[str],
    typer.Argument(metavar="[IMAGE]... QUESTION", help="Image files (- reads one from stdin), then a question."),
]
Choice = Annotated[str | None, typer.Option(help="Model; `tileq models` lists them.")]
TileCounts = Annotated[
    str | None, typer.Option(metavar="N[,N…]", help="Tiles of an image, 1 to 40: one number, or one for each image.")
]
Thumbnail = Annotated[
    bool | None, typer.Option("--thumbnail/--no-thumbnail", help="A small whole view beside the tiles.")
]
Parent = Annotated[str | None, typer.Option(metavar="JOB", help="Go on with this job's conversation and images.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the most likely tokens whose probabilities add up to this.")
]
Seed = Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")]
Stop = Annotated[list[str], typer.Option(metavar="TEXT", help="Stop before this text. May be repeated.")]
Hook = Annotated[str | None, typer.Option("--webhook", metavar="URL", help="Where the signed webhook goes.")]
Metadata = Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Echoed everywhere. May be repeated.")]
Priority = Annotated[str | None, typer.Option(help="high, normal or low.")]
StartWithin = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="The job expires unless a worker starts it within this.")
]
RunWithin = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="The job fails unless it ends within this after its start.")
]


def submitting(then: Callable[[ApiClient, Json, bool], None]) -> Command:
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
        files = [_image_file(name) for name in images]
        with api(url) as service:
            then(service, service.submit(_given(request), files), json)

    return command


def show_until_end(service: ApiClient, job: Json, as_json: bool) -> None:
    """Show states and text as they arrive, then the answer. Raises `CommandError` where the job has none."""
    live = sys.stdout.isatty() and not as_json
    tiles = "".join(
        f", {output.counted(image['tiles'], 'tile')}" for image in job.get("images") or [] if image["tiles"]
    )
    output.note(f"{job['id']} accepted{tiles}")
    shown, wrote = "", False
    try:
        for event in service.follow(job["id"]):
            if event.kind == "end":
                job = event.data
            elif event.kind == "state" and (line := output.state_line(event.data)) != shown:
                shown = line
                if not wrote:
                    output.note(line)
            elif event.kind == "reset" and wrote:
                sys.stdout.write("\n")
                output.note("a new attempt begins; discard the output above")
                wrote = False
            elif event.kind == "delta" and live:
                sys.stdout.write(output.clean(event.data["text"]))
                sys.stdout.flush()
                wrote = True
    except KeyboardInterrupt:
        print(file=sys.stderr)
        output.note(
            f"{job['id']} continues; `tileq wait {job['id']}` waits for it, `tileq cancel {job['id']}` stops it"
        )
        raise
    if wrote:
        sys.stdout.write("\n")
    finish(job, as_json, printed=wrote)


def finish(job: Json, as_json: bool, *, printed: bool = False) -> None:
    """Print the answer of an ended job. Raises `CommandError` where it has none."""
    if as_json:
        output.as_json(job)
    if job["state"] != "succeeded":
        raise CommandError(output.failure_line(job))
    if not as_json and not printed:
        output.answer(job)
    if (job.get("output") or {}).get("finish_reason") == "length":
        output.note("the answer was truncated at max_new_tokens; raise it with --max-new-tokens")
    if figures := output.summary(job):
        output.note(figures)


def print_id(_: ApiClient, job: Json, as_json: bool) -> None:
    """Print the id of the accepted job."""
    if as_json:
        output.as_json(job)
    else:
        print(job["id"])


def _image_file(name: str) -> ImageFile:
    if name == "-":
        data = sys.stdin.buffer.read()
        if not data:
            raise UsageError("stdin is empty; an image file was expected")
        return ImageFile("stdin", data)
    try:
        return ImageFile(Path(name).name, Path(name).read_bytes())
    except OSError as error:
        hint = "; a question of several words needs quotes" if " " not in name and not Path(name).suffix else ""
        raise UsageError(f"can't read the image file {name}: {error.strerror or error}{hint}") from None


def _refuse_forgotten_question(question: str) -> None:
    kind = mimetypes.guess_type(question)[0] or ""
    if question == "-" or (kind.startswith("image/") and " " not in question):
        raise UsageError(f'{question} is an image file; the question is missing: tileq ask {question} "What is this?"')


def _tiles(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--tiles takes one number, or one for each image with commas between, not {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _pairs(entries: list[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise UsageError(f"--metadata takes KEY=VALUE, not {entry!r}")
        pairs[name] = value
    return pairs


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

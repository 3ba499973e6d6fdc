"""`tileq demo`: run the whole service for a minute and show a few jobs.

The demo model is asked about drawings whose right answers are known, and about a page of small print a second time with
one tile, which is what a model without tiling sees. Another model (TILEQ_MODEL) is asked about a photograph too.

The service is that of `tileq up` in a temporary folder; everything shown comes from its API or its webhooks.
"""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text
from standardwebhooks import Webhook, WebhookVerificationError

from services.cli.client import ENDED, ApiClient, ImageFile, Json
from services.cli.environment import settings
from services.cli.errors import ApiError, CommandError
from services.cli.local.ports import free_ports
from services.cli.local.restarts import SupervisorError
from services.cli.local.service import whole_service
from services.cli.local.supervisor import supervised
from services.cli.mosaic import mosaic, tile_diagram
from services.cli.output import clean, failure_line, state_line
from services.cli.receiver import ReceivedWebhook, Receiver, receiving
from shared.models import DEMO_MODEL_ID
from shared.settings.roles import Settings

_MAX_NEW_TOKENS = 48
_LOAD_TIMEOUT_S = 600.0
_WEBHOOK_TIMEOUT_S = 20.0
_MAX_COLUMNS = 96
_MARGIN = " " * 13  # of generated text, as wide as the column of times
_STAGES_AFTER_TILING = ("vision", "prefill", "decode")


@dataclass(frozen=True)
class DemoQuestion:
    """One question of the demo. `tiles`: maximum tiles of the image, None for the service's default."""

    image: str
    question: str
    answer: str | None = None
    tiles: int | None = None

    @property
    def title(self) -> str:
        """Image, tiles and question in one line."""
        variant = "" if self.tiles is None else f", with tiles={self.tiles}, as a model without tiling sees it"
        return f"{self.image}{variant}: {self.question}"


PHOTOGRAPH = DemoQuestion("coffee.jpg", "What is in this picture?")
IMAGES = files("services.cli") / "images"


def questions(model: str) -> Iterator[DemoQuestion]:
    """Yield the questions for `model`: the bundled ones, tiled pages with one tile as well, then the photograph."""
    for asked in json.loads((IMAGES / "questions.json").read_text()):
        question = DemoQuestion(asked["image"], asked["question"], asked["answer"])
        yield question
        if asked.get("tiled"):
            yield replace(question, tiles=1)
    if model != DEMO_MODEL_ID:
        yield PHOTOGRAPH


#: Settings that must not come from the user's shell: the demo is a service without keys on loopback.
DEMO_SETTINGS = {
    "TILEQ_API_KEYS": "",
    "TILEQ_WEBHOOK_HTTP": "false",
    "TILEQ_WEBHOOK_PORTS": "",
    "TILEQ_WEBHOOK_ALLOW": "",
    "TILEQ_WEBHOOK_PROXY": "",
    "TILEQ_ROOT_PATH": "",
}


def run() -> None:
    """Start the service, ask the questions, stop the service."""
    found = settings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `kill` stops everything too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tileq-demo-") as name:
        try:
            _run(Path(name), found, Console())
        except (SupervisorError, OSError) as error:
            raise CommandError(str(error)) from None
    print(f"\nEverything is stopped, nothing is left behind. {time.monotonic() - began:.0f} s in all.", flush=True)


def _run(folder: Path, found: Settings, console: "Console") -> None:
    console.title("Starting Valkey, SeaweedFS, intake, batches, reconciler, webhooks and a vision worker")
    (port,) = free_ports(1)
    secret = folder / "webhook-secret"
    own = DEMO_SETTINGS | {"TILEQ_WEBHOOK_SECRET_FILE": str(secret)}
    try:
        service = whole_service(folder, found, host="127.0.0.1", port=port, vision=1, more=own, load=_LOAD_TIMEOUT_S)
    except (ImportError, FileNotFoundError) as error:
        raise CommandError(f"{error}; the demo needs the extra `local`: pip install 'tileq[local]'") from None
    with supervised(folder, service.stages, console.line), ApiClient(service.url) as api, receiving() as receiver:
        console.line(f"ready at {service.url}")
        model = _loaded_model(api)
        console.line(
            f"model {model['id']}, {model['parameters']:,} parameters, {model['tokens_per_tile']} tokens a tile"
        )
        for number, question in enumerate(questions(model["id"])):
            webhook = _ask(question, api, receiver, console)
            _show_webhook(webhook, secret.read_text().strip(), console, whole=not number)
        console.title("Stopping")


def _loaded_model(api: ApiClient) -> Json:
    models: list[Json] = api.get("/v1/models")["data"]
    return next((model for model in models if model["workers"]), models[0])


def _ask(question: DemoQuestion, api: ApiClient, receiver: Receiver, console: "Console") -> ReceivedWebhook:
    console.title(question.title)
    request: dict[str, Any] = {
        "prompt": question.question,
        "generation": {"max_new_tokens": _MAX_NEW_TOKENS},
        "webhook": {"url": receiver.url},
    }
    if question.tiles is not None:
        request["tiles"] = question.tiles
    data = (IMAGES / question.image).read_bytes()
    sent = time.monotonic()
    job = api.submit(request, [ImageFile(question.image, data)])
    console.clock(sent)
    console.event(f"202: {job['id']} is accepted and durable")
    job = _follow(api, job, console)
    webhook = receiver.next(_WEBHOOK_TIMEOUT_S)
    if job["state"] != "succeeded":
        raise CommandError(failure_line(job))
    if webhook is None:
        raise CommandError(f"no webhook arrived within {_WEBHOOK_TIMEOUT_S:g} s")
    console.event("the webhook was received")
    if question.answer is not None:
        console.verdict(question.answer, job["output"]["text"].strip() == question.answer)
    _show_timings(job, console)
    return webhook


def _follow(api: ApiClient, job: Json, console: "Console") -> Json:
    """Show the states of a job, its tiles once they exist, and its text as it is generated; return the ended job."""
    shown, drawn, began = "", False, False
    for event in api.follow(job["id"]):
        if event.kind == "end":
            job = event.data
            console.event(state_line(job))
        elif event.kind == "delta":
            if not drawn:
                _show_tiles(api, job, console)
                drawn = True
            if not began:
                console.event("the answer, as it is generated:")
            began = True
            console.text(event.data["text"])
        elif event.kind == "reset":
            console.event("a new attempt begins; its text replaces the text above")
            began = False
        elif not began and event.data["state"] not in ENDED and (line := state_line(event.data)) != shown:
            shown = line
            console.event(line)
            if not drawn and (event.data.get("progress") or {}).get("stage") in _STAGES_AFTER_TILING:
                _show_tiles(api, event.data, console)
                drawn = True
    if not drawn:
        _show_tiles(api, job, console)
    return job


def _show_tiles(api: ApiClient, job: Json, console: "Console") -> None:
    image = job["images"][0]
    columns, rows = image["grid"]
    thumbnail = image["tiles"] > columns * rows
    extra = " and a thumbnail of the whole" if thumbnail else ""
    size = f"{image['width']}x{image['height']}"
    tiles = "one tile" if columns * rows == 1 else f"{columns}x{rows} tiles"
    console.line(f"{size} pixels become {tiles} of 448x448{extra}; this is what the model sees:")
    png = _view(api, job["id"]) if console.has_colours else None
    console.tiles(png, tile_diagram(columns, rows, thumbnail))


def _view(api: ApiClient, id: str) -> bytes | None:
    for _ in range(10):
        try:
            return api.read(f"/v1/jobs/{id}/images/0", view="tiles")
        except ApiError:  # stored while the job runs, so it may appear a moment later
            time.sleep(0.1)
    return None


def _show_timings(job: Mapping[str, Any], console: "Console") -> None:
    usage, timings = job["usage"], job["timings"]
    figures = "  ".join(f"{name} {seconds:.2f}" for name, seconds in timings.items() if seconds is not None)
    console.line(f"seconds:  {figures}")
    console.line(
        f"tokens:   {usage['prompt_tokens']} in the prompt, {usage['image_tokens']} of them of the image; "
        f"{usage['completion_tokens']} generated"
    )


def _show_webhook(webhook: ReceivedWebhook, secret: str, console: "Console", *, whole: bool) -> None:
    try:
        event = Webhook(secret).verify(webhook.body, webhook.headers)
    except WebhookVerificationError as error:
        raise CommandError(f"the webhook's signature does not verify: {error}") from None
    if not whole:
        console.success("webhook verified")
        return
    console.title("The webhook, as received")
    console.line(f"POST {webhook.path}")
    for name in ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature"):
        console.line(f"{name}: {webhook.headers.get(name, '')}")
    data = event["data"]
    shown = {name: data[name] for name in ("id", "state", "output") if name in data}
    body = json.dumps({"type": event["type"], "timestamp": event["timestamp"], "data": shown}, ensure_ascii=False)
    console.line(f"{body[:-2]}, … {len(webhook.body.encode())} bytes}}}}")
    console.success("signature verified with the secret of this service (standardwebhooks)")


class Console:
    """The output of the demo: titles, lines, events with their time, and text as it is generated."""

    def __init__(self) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)
        self.has_colours = self._console.is_terminal and self._console.color_system is not None
        self._began = time.monotonic()
        self._writing = False

    def clock(self, began: float) -> None:
        """Count the times of events from `began`."""
        self._began = began

    def title(self, text: str) -> None:
        """Begin a section."""
        self._end_text()
        self._console.print()
        self._console.print(Text(clean(text), "bold"))

    def line(self, text: str) -> None:
        """Print a line."""
        self._end_text()
        self._console.print(Text(f"  {clean(text)}"))

    def success(self, text: str) -> None:
        """Print a line about a success."""
        self._end_text()
        self._console.print(Text(f"  {'✓ ' if self.has_colours else ''}{text}", "green"))

    def verdict(self, answer: str, correct: bool) -> None:
        """Print whether the generated answer is what the image shows."""
        if correct:
            self.success(f"right: the image was drawn with {answer}")
        else:
            self.line(f"wrong: the image was drawn with {answer}")

    def event(self, text: str) -> None:
        """Print an event with its time."""
        self._end_text()
        self._console.print(Text(f"  {time.monotonic() - self._began:6.2f} s  {clean(text)}"))

    def text(self, piece: str) -> None:
        """Append generated text."""
        if not self._writing:
            sys.stdout.write(_MARGIN)
        self._writing = True
        sys.stdout.write(clean(piece).replace("\n", f"\n{_MARGIN}"))
        sys.stdout.flush()

    def tiles(self, png: bytes | None, diagram: str) -> None:
        """Draw the tiles, in colours or as a diagram."""
        self._end_text()
        if png:
            self._console.print(mosaic(png, min(self._console.width - 2, _MAX_COLUMNS)))
        else:
            self._console.print(Text(indent(diagram, "    ")))

    def _end_text(self) -> None:
        if self._writing:
            self._writing = False
            sys.stdout.write("\n")

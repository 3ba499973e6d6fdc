"""`tileq demo`: the whole service for a minute, and a few jobs through all of it, shown.

The demo model is asked about drawings of which the right answers are known; of a page in small print once more with one
tile, which is what every model sees that does not tile. Another model (TILEQ_MODEL) is asked about a photograph too.

The service is the one of `tileq up` in a temporary folder; everything shown is read from its API or arrived by webhook.
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

from rich.console import Console
from rich.text import Text
from standardwebhooks import Webhook, WebhookVerificationError

from services.cli.client import ENDED, Api, Json, Picture
from services.cli.environment import settings
from services.cli.failure import Failure, Refused
from services.cli.local.ports import free_ports
from services.cli.local.service import whole_service
from services.cli.local.supervisor import supervised
from services.cli.local.watched import SupervisorError
from services.cli.mosaic import boxes, mosaic
from services.cli.receiver import Arrived, Receiver, receiving
from services.cli.show import clean, state_line, why
from shared.models import DEMO_MODEL_ID
from shared.settings import Settings

_LONGEST_ANSWER = 48  # tokens
_LOADING = 600.0  # seconds in which a model must be loaded
_WEBHOOK_WITHIN = 20.0
_MOST_COLUMNS = 96
_MARGIN = " " * 13  # of generated text, under what stands beside the clock
_TILED = ("vision", "prefill", "decode")  # the stages after tiling


@dataclass(frozen=True)
class Step:
    """One question of the demo. `tiles`: most tiles of the picture, None for the service's default."""

    picture: str
    question: str
    right: str | None = None
    tiles: int | None = None

    @property
    def title(self) -> str:
        """The question, and of what."""
        seen = "" if self.tiles is None else f", with tiles={self.tiles}, as a model that does not tile sees it"
        return f"{self.picture}{seen}: {self.question}"


PHOTOGRAPH = Step("coffee.jpg", "What is in this picture?")
PICTURES = files("services.cli") / "pictures"


def steps(model: str) -> Iterator[Step]:
    """What `model` is asked: the bundled questions, tiled pages with one tile as well, then the photograph."""
    for asked in json.loads((PICTURES / "questions.json").read_text()):
        step = Step(asked["picture"], asked["question"], asked["answer"])
        yield step
        if asked.get("tiled"):
            yield replace(step, tiles=1)
    if model != DEMO_MODEL_ID:
        yield PHOTOGRAPH


#: What must not come from the user's shell: the demo is a service of its own, without keys, on loopback.
OWN = {"TILEQ_API_KEYS": "", "TILEQ_WEBHOOK_HTTP": "false", "TILEQ_WEBHOOK_PORTS": "", "TILEQ_WEBHOOK_ALLOW": ""}


def run() -> None:
    """Start the service, go through the steps, stop it."""
    found = settings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `kill` stops everything too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tileq-demo-") as name:
        try:
            _run(Path(name), found, Stage())
        except SupervisorError as error:
            raise Failure(str(error)) from None
    print(f"\nEverything is stopped, nothing is left behind. {time.monotonic() - began:.0f} s in all.", flush=True)


def _run(folder: Path, found: Settings, stage: "Stage") -> None:
    stage.title("Starting Valkey, SeaweedFS, intake, reconciler, webhooks and a vision worker")
    (port,) = free_ports(1)
    secret = folder / "webhook-secret"
    own = OWN | {"TILEQ_WEBHOOK_SECRET_FILE": str(secret)}
    try:
        service = whole_service(folder, found, host="127.0.0.1", port=port, vision=1, more=own, load=_LOADING)
    except (ImportError, FileNotFoundError) as error:
        raise Failure(f"{error}; the demo needs the extra `local`: pip install 'tileq[local]'") from None
    with supervised(folder, service.stages, stage.line), Api(service.url) as api, receiving() as receiver:
        stage.line(f"ready at {service.url}")
        model = _loaded_model(api)
        stage.line(f"model {model['id']}, {model['parameters']:,} parameters, {model['tokens_per_tile']} tokens a tile")
        for number, step in enumerate(steps(model["id"])):
            webhook = _ask(step, api, receiver, stage)
            _show_webhook(webhook, secret.read_text().strip(), stage, whole=not number)
        stage.title("Stopping")


def _loaded_model(api: Api) -> Json:
    models: list[Json] = api.get("/v1/models")["data"]
    return next((model for model in models if model["workers"]), models[0])


def _ask(step: Step, api: Api, receiver: Receiver, stage: "Stage") -> Arrived:
    stage.title(step.title)
    request: dict[str, Any] = {
        "prompt": step.question,
        "generation": {"max_new_tokens": _LONGEST_ANSWER},
        "webhook": {"url": receiver.url},
    }
    if step.tiles is not None:
        request["tiles"] = step.tiles
    data = (PICTURES / step.picture).read_bytes()
    sent = time.monotonic()
    job = api.submit(request, [Picture(step.picture, data)])
    stage.clock(sent)
    stage.moment(f"202: {job['id']} is taken in, durably")
    job = _follow(api, job, stage)
    webhook = receiver.next(_WEBHOOK_WITHIN)
    if job["state"] != "succeeded":
        raise Failure(why(job))
    if webhook is None:
        raise Failure(f"no webhook arrived within {_WEBHOOK_WITHIN:g} s")
    stage.moment("the webhook arrived")
    if step.right is not None:
        stage.verdict(step.right, job["output"]["text"].strip() == step.right)
    _show_timings(job, stage)
    return webhook


def _follow(api: Api, job: Json, stage: "Stage") -> Json:
    """Show states, the tiles once there are any, and the text as it comes."""
    told, drawn, began = "", False, False
    for event in api.follow(job["id"]):
        if event.kind == "end":
            job = event.data
            stage.moment(state_line(job))
        elif event.kind == "delta":
            if not drawn:
                _show_tiles(api, job, stage)
                drawn = True
            if not began:
                stage.moment("the answer, as it is written:")
            began = True
            stage.text(event.data["text"])
        elif event.kind == "reset":
            stage.moment("a new attempt begins, and the text anew")
            began = False
        elif not began and event.data["state"] not in ENDED and (line := state_line(event.data)) != told:
            told = line
            stage.moment(line)
            if not drawn and (event.data.get("progress") or {}).get("stage") in _TILED:
                _show_tiles(api, event.data, stage)
                drawn = True
    if not drawn:
        _show_tiles(api, job, stage)
    return job


def _show_tiles(api: Api, job: Json, stage: "Stage") -> None:
    image = job["images"][0]
    columns, rows = image["grid"]
    thumbnail = image["tiles"] > columns * rows
    extra = " and the whole as a thumbnail" if thumbnail else ""
    size = f"{image['width']}x{image['height']}"
    tiles = "one tile" if columns * rows == 1 else f"{columns}x{rows} tiles"
    stage.line(f"{size} pixels become {tiles} of 448x448{extra}; this is what the model sees:")
    png = _view(api, job["id"]) if stage.colours else None
    stage.tiles(png, boxes(columns, rows, thumbnail))


def _view(api: Api, id: str) -> bytes | None:
    for _ in range(10):
        try:
            return api.read(f"/v1/jobs/{id}/images/0", view="tiles")
        except Refused:  # stored beside the job's work, so it may come a moment later
            time.sleep(0.1)
    return None


def _show_timings(job: Mapping[str, Any], stage: "Stage") -> None:
    usage, timings = job["usage"], job["timings"]
    figures = "  ".join(f"{name} {seconds:.2f}" for name, seconds in timings.items() if seconds is not None)
    stage.line(f"seconds:  {figures}")
    stage.line(
        f"tokens:   {usage['prompt_tokens']} in the prompt, {usage['image_tokens']} of them the picture's; "
        f"{usage['completion_tokens']} written"
    )


def _show_webhook(webhook: Arrived, secret: str, stage: "Stage", *, whole: bool) -> None:
    try:
        event = Webhook(secret).verify(webhook.body, webhook.headers)
    except WebhookVerificationError as error:
        raise Failure(f"the webhook's signature does not verify: {error}") from None
    if not whole:
        stage.good("webhook verified")
        return
    stage.title("The webhook, as it arrived")
    stage.line(f"POST {webhook.path}")
    for name in ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature"):
        stage.line(f"{name}: {webhook.headers.get(name, '')}")
    data = event["data"]
    shown = {name: data[name] for name in ("id", "state", "output") if name in data}
    body = json.dumps({"type": event["type"], "timestamp": event["timestamp"], "data": shown}, ensure_ascii=False)
    stage.line(f"{body[:-2]}, … {len(webhook.body.encode())} bytes}}}}")
    stage.good("signature verified with the secret of this service (standardwebhooks)")


class Stage:
    """The terminal: titles, moments with their time, text as it comes; plain where it is not one."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self.colours = self._console.is_terminal and self._console.color_system is not None
        self._began = time.monotonic()
        self._writing = False

    def clock(self, began: float) -> None:
        """Count moments from here."""
        self._began = began

    def title(self, text: str) -> None:
        """Begin a part."""
        self._end_text()
        self._console.print()
        self._console.print(Text(clean(text), "bold"))

    def line(self, text: str) -> None:
        """Say something."""
        self._end_text()
        self._console.print(Text(f"  {clean(text)}"))

    def good(self, text: str) -> None:
        """Say something good."""
        self._end_text()
        self._console.print(Text(f"  {'✓ ' if self.colours else ''}{text}", "green"))

    def verdict(self, right: str, given: bool) -> None:
        """Say what the picture really shows."""
        if given:
            self.good(f"right: the picture was drawn with {right}")
        else:
            self.line(f"wrong: the picture was drawn with {right}")

    def moment(self, text: str) -> None:
        """Say what happened just now."""
        self._end_text()
        self._console.print(Text(f"  {time.monotonic() - self._began:6.2f} s  {clean(text)}"))

    def text(self, piece: str) -> None:
        """Write generated text on."""
        if not self._writing:
            sys.stdout.write(_MARGIN)
        self._writing = True
        sys.stdout.write(clean(piece).replace("\n", f"\n{_MARGIN}"))
        sys.stdout.flush()

    def tiles(self, png: bytes | None, letters: str) -> None:
        """Draw the tiles."""
        self._end_text()
        if png:
            self._console.print(mosaic(png, min(self._console.width - 2, _MOST_COLUMNS)))
        else:
            self._console.print(Text(indent(letters, "    ")))

    def _end_text(self) -> None:
        if self._writing:
            self._writing = False
            sys.stdout.write("\n")

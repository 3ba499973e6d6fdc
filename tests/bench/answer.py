"""`make bench-answer`: how long a question about a tiled image takes through the whole service, demo model on a CPU.

Each image is another page of 1792x1344, which becomes 4x3 tiles and a thumbnail, so that nothing is cached. As many
tiles through the tower alone, in this process and with the service idle, stand beside it: the rest is what the service
and the decoder add. Last, the first text of a streamed call, without an image and with one of one tile: how much later
the client has it than the worker alone would take.
"""

import argparse
import base64
import json
import os
import platform
import statistics
import time
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.scenes import page_scene
from shared.settings.roles import Settings
from tests.acceptance.client import Client
from tests.bench.figures import at_most
from tests.encoded import encoded
from tests.service import service
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.engine.factory import BUNDLED
from workers.vision.model.image_features import feature_batches
from workers.vision.model.loader import LoadOptions, load

QUESTION = "What is the TOTAL?"
SIZE = (1792, 1344)
TILES = 13


def page(n: int) -> bytes:
    """Return page `n` in PNG."""
    return encoded(Image.fromarray(page_scene(seeds.bundle(n)).image).resize(SIZE))


def tower_seconds(rounds: int) -> float:
    """Return what 13 tiles take through the vision tower, as the worker loads it and calls it."""
    checkpoint = open_checkpoint(BUNDLED)
    model = load(checkpoint, LoadOptions("cpu", Settings().dtype), lambda _line: None)
    tiles = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (TILES, 448, 448, 3), np.uint8))
    taken = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            began = time.perf_counter()
            list(feature_batches(model, checkpoint.config, tiles))
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def first_text(http: httpx.Client, image: bytes | None) -> tuple[float, float]:
    """Return seconds from a streamed call to its first text, and those from the job's claim to the same text."""
    parts = [{"type": "input_text", "text": QUESTION}]
    if image:
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        parts.append({"type": "input_image", "image_url": url, "detail": "low"})
    asked = {"input": [{"role": "user", "content": parts}], "stream": True}
    began, first, event = time.perf_counter(), 0.0, dict[str, Any]()
    with http.stream("POST", "/v1/responses", json=asked) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "response.output_text.delta":
                    first = first or time.perf_counter() - began
    timings = event["response"]["tileq"]["timings"]
    return first, timings["first_token"] - timings["queue"]


def main() -> None:
    """Ask, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    taken, stages, asked = [], [], range(rounds + 1)
    pages = [page(n) for n in range(2 * len(asked))]
    with service(engine="resident") as here, httpx.Client(base_url=here.url, timeout=60) as http:
        api = Client(http)
        for n in asked:
            began = time.perf_counter()
            job = api.job(api.submit(QUESTION, pages[n], tiles=12)["id"], wait=30)
            taken.append(time.perf_counter() - began)
            assert job["state"] == "succeeded", job
            assert job["images"][0]["tiles"] == TILES, job
            stages.append(job["timings"])
        streamed = {
            "no image": [first_text(http, None) for _ in asked][1:],
            "1 tile": [first_text(http, pages[len(asked) + n]) for n in asked][1:],
        }
        tower = tower_seconds(rounds)
    whole = statistics.median(taken[1:])
    at_most(f"{TILES} tiles, submitted to answered, p50", whole, 3, "s")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    names = [name for name, seconds in stages[0].items() if seconds is not None]
    print("median of a stage:", "  ".join(f"{n} {statistics.median(s[n] for s in stages[1:]):.3f}" for n in names))
    print(
        f"submitted to answered, {TILES} tiles: {whole:.2f} s, slowest {max(taken[1:]):.2f} s, first {taken[0]:.2f} s"
    )
    for name, firsts in streamed.items():
        call = 1000 * statistics.median(first for first, _ in firsts)
        over = 1000 * statistics.median(first - alone for first, alone in firsts)
        at_most(f"first streamed text over the worker's own, {name}, p50", over, 30, "ms")
        print(f"first streamed text, {name}: {call:.0f} ms after the call, {over:.1f} ms over the worker's own")
    print(f"the tower alone: {tower:.2f} s; whole to tower {whole / tower:.2f}")


if __name__ == "__main__":
    main()

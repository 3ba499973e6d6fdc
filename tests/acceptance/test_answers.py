"""The demo model gives true answers through the whole service: these tests hold the meaning, not the plumbing."""

import json
from collections.abc import Iterator
from importlib.resources import files

import httpx
import pytest
from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.scenes import drawing_scene
from tests.acceptance.client import Client
from tests.encoded import encoded
from tests.service import service

pytestmark = pytest.mark.acceptance
IMAGES = files("services.cli") / "images"
ASKED = json.loads((IMAGES / "questions.json").read_text())
SHAPES, RECEIPT = ((IMAGES / name).read_bytes() for name in ("shapes.png", "receipt.png"))
(TOTAL,) = (asked for asked in ASKED if asked.get("tiled"))
LEFTMOST, NUMBER = (asked for asked in ASKED if not asked.get("tiled"))
OTHER = drawing_scene(seeds.bundle(2), 448, 448, 2, number=True)


@pytest.fixture(scope="module")
def asked() -> Iterator[Client]:
    """A client of a service that serves the demo model."""
    with service(engine="resident") as here, httpx.Client(base_url=here.url, timeout=60) as http:
        yield Client(http)


def said(api: Client, job: dict[str, str]) -> str:
    ended = api.ended(job["id"])
    assert ended["state"] == "succeeded", ended
    return str(ended["output"]["text"])


@pytest.mark.parametrize("question", ASKED, ids=lambda asked: asked["answer"])
def test_the_questions_of_the_demo_are_answered_rightly(asked: Client, question: dict[str, str]) -> None:
    image = (IMAGES / question["image"]).read_bytes()
    assert said(asked, asked.submit(question["question"], image)) == question["answer"]


def test_small_print_on_a_page_needs_its_tiles(asked: Client) -> None:
    assert said(asked, asked.submit(TOTAL["question"], RECEIPT, tiles=12)) == TOTAL["answer"]
    assert said(asked, asked.submit(TOTAL["question"], RECEIPT, tiles=1)) != TOTAL["answer"]


def test_a_second_round_is_about_the_same_image(asked: Client) -> None:
    messages = [
        {"role": "user", "content": LEFTMOST["question"]},
        {"role": "assistant", "content": LEFTMOST["answer"]},
        {"role": "user", "content": NUMBER["question"]},
    ]
    assert said(asked, asked.submit(None, SHAPES, messages=messages)) == NUMBER["answer"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which shape is leftmost in the first picture?", LEFTMOST["answer"]),
        ("第二张图中的数字是多少？", OTHER.number),
        ("How many shapes are there in the second picture?", str(len(OTHER.shapes))),
    ],
)
def test_two_images_in_one_question_are_told_apart(asked: Client, question: str, answer: str) -> None:
    prompt = f"Image-1: <image>\nImage-2: <image>\n{question}"
    assert said(asked, asked.submit(prompt, SHAPES, encoded(Image.fromarray(OTHER.image)))) == answer

"""The stages that are measured, their sizes, and how a script in a peer's environment prints what it found."""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TILE_TOKENS, SIDE = 256, 448
TEXT = 30  #: tokens before and after the image
NEW = 64
MARK = "figure: "
Precision = Literal["bfloat16", "int8", "int4"]
PARTS = (
    "one",  #: request of 1 tile
    "large",  #: request
    "second",  #: question about the large image
    "requests",  #: together
    "answers",  #: together
)


@dataclass(frozen=True)
class Plan:
    """What a side is to measure. `sizes` are the model's, as in `random_model.MINI`."""

    sizes: dict[str, Any]
    folder: Path  #: for files of the model, kept from run to run
    precision: Precision
    requests: int
    rounds: int
    tiles: int  #: of the large image
    threads: int
    parts: list[str]  #: of PARTS, those to measure

    @staticmethod
    def from_arguments() -> "Plan":
        """The plan on the command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("plan", type=Plan.read)
        plan: Plan = parser.parse_args().plan
        return plan

    @staticmethod
    def read(text: str) -> "Plan":
        """The plan that `written` wrote."""
        fields = json.loads(text)
        return Plan(**fields | {"folder": Path(fields["folder"])})

    def written(self) -> str:
        """The plan for a command line."""
        return json.dumps(self.__dict__ | {"folder": str(self.folder)})

    @property
    def prompts(self) -> tuple[int, int]:
        """Tokens of a prompt with one tile, and with `tiles`."""
        return prompt_tokens(1), prompt_tokens(self.tiles)


def prompt_tokens(tiles: int) -> int:
    """Tokens of a prompt with an image of `tiles`."""
    return tiles * TILE_TOKENS + 2 * TEXT


def text_ids(seed: int, count: int) -> list[int]:
    """Ids of plain text, other ones for each seed, so that nothing is found in a cache by chance."""
    drawn = random.Random(seed)
    return [drawn.randrange(300, 400) for _ in range(count)]


def vision(tiles: int) -> str:
    """Seconds of the encoder and its projector."""
    return f"vision, {tiles} tiles: s"


def prefill(tokens: int) -> str:
    """Speed of a prompt alone."""
    return f"prefill of {tokens}: tokens/s"


def decode(tokens: int) -> str:
    """Speed of one answer after a prompt."""
    return f"decode after {tokens}: tokens/s"


def decode_together(requests: int) -> str:
    """Speed of several answers together."""
    return f"decode of {requests} together: tokens/s"


def together(requests: int) -> str:
    """Seconds of several requests of one tile each."""
    return f"{requests} requests of 1 tile, {NEW} new: s"


def together_text(requests: int) -> str:
    """Seconds of as many prompts of the same length without an image."""
    return f"{requests} prompts of {prompt_tokens(1)}, no image, {NEW} new: s"


def second_round(tiles: int) -> str:
    """Seconds to the first token of another question about an image."""
    return f"second question about {tiles} tiles, first token: s"


def is_rate(stage: str) -> bool:
    """Whether more of it is better."""
    return stage.endswith("/s")


def report(stage: str, value: float) -> None:
    """Print a figure for the process that started this one, and wait until it is this one's turn again."""
    print(MARK + json.dumps([stage, value]), flush=True)
    sys.stdin.readline()

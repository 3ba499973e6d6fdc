"""Drawing: grounds, print in three fonts, and shapes. All sizes are pixels."""

from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infra.demo_model.class_names import RGB

ImageArray = NDArray[np.uint8]
Rng = np.random.Generator
Point = tuple[float, float]

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
DIGIT_HEIGHT_EM = 0.729  # of the em, in all three fonts


@cache
def font(name: str, em: int) -> ImageFont.FreeTypeFont:
    """Return one bundled font at `em` pixels."""
    return ImageFont.truetype(str(Path(__file__).parent / "fonts" / f"{name}.ttf"), em)


def background(rng: Rng, width: int, digit_height: int) -> ImageArray:
    """Return a light ground: plain, or with mild noise, a slope of brightness or faint stripes."""
    base = rng.integers(205, 250) + rng.integers(-10, 6, 3)
    image: NDArray[Any] = np.broadcast_to(base.astype(np.float32), (digit_height, width, 3))
    kind = rng.integers(4)
    if kind == 1:
        image = image + rng.normal(0, rng.uniform(2, 7), (digit_height, width, 1)).astype(np.float32)
    elif kind == 2:
        slope_x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-14, 14)
        slope_y = np.linspace(-1, 1, digit_height, dtype=np.float32)[:, None, None] * rng.uniform(-14, 14)
        image = image + slope_x + slope_y
    elif kind == 3:
        angle, period = rng.uniform(0, pi), rng.uniform(9, 40)
        x, y = np.arange(width, dtype=np.float32)[None], np.arange(digit_height, dtype=np.float32)[:, None]
        wave = np.sin((x * np.float32(cos(angle)) + y * np.float32(sin(angle))) * np.float32(2 * pi / period))
        image = image + wave[:, :, None] * rng.uniform(2, 7)
    light: ImageArray = np.clip(image, 0, 255).astype(np.uint8)
    return light


@dataclass(frozen=True)
class FontFace:
    """A font at one size, in one colour."""

    name: str
    em: int
    colour: tuple[int, int, int]

    @property
    def digit_height(self) -> float:
        """Height of a digit."""
        return DIGIT_HEIGHT_EM * self.em

    def character_edges(self, text: str) -> list[float]:
        """Return where each character of `text` begins, and where the last one ends."""
        measure = font(self.name, self.em)
        return [measure.getlength(text[:n]) for n in range(len(text) + 1)]

    def draw(self, canvas: Image.Image, position: Point, text: str) -> None:
        """Print `text`; `place` is its left edge and its baseline."""
        ImageDraw.Draw(canvas).text(position, text, fill=self.colour, font=font(self.name, self.em), anchor="ls")


def dark_colour(rng: Rng) -> tuple[int, int, int]:
    """Return a dark colour to print in."""
    dark = rng.integers(0, 80)
    red, green, blue = (int(c) for c in np.clip(dark + rng.integers(-30, 31, 3), 0, 100))
    return red, green, blue


def polygon(kind: str, angle: float) -> list[tuple[float, float]]:
    """Return the corners of a shape of diameter 2 around the origin."""
    if kind == "square":
        return [(1.2 * cos(angle + pi / 4 + k * pi / 2), 1.2 * sin(angle + pi / 4 + k * pi / 2)) for k in range(4)]
    if kind == "triangle":
        return [
            (1.1 * cos(angle - pi / 2 + k * 2 * pi / 3), 1.1 * sin(angle - pi / 2 + k * 2 * pi / 3) + 0.2)
            for k in range(3)
        ]
    corners = []
    for k in range(10):
        radius = 1.1 if k % 2 == 0 else 0.48
        corners.append((radius * cos(angle - pi / 2 + k * pi / 5), radius * sin(angle - pi / 2 + k * pi / 5)))
    return corners


def draw_shape(canvas: Image.Image, rng: Rng, what: tuple[str, int], centre: Point, size: float) -> None:
    """Draw one filled shape about `size` across, with smooth edges and a slightly varied colour."""
    (kind, colour), side, scale = what, int(size * 1.3) + 4, 3
    mask = Image.new("L", (side * scale, side * scale))
    middle, radius = side * scale / 2, size * scale / 2
    pen = ImageDraw.Draw(mask)
    if kind == "circle":
        pen.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
    else:
        corners = polygon(kind, rng.uniform(-0.2, 0.2))
        pen.polygon([(middle + radius * x, middle + radius * y) for x, y in corners], fill=255)
    red, green, blue = (int(c) for c in np.clip(np.array(RGB[colour]) + rng.integers(-14, 15, 3), 0, 255))
    position = (round(centre[0] - side / 2), round(centre[1] - side / 2))
    canvas.paste((red, green, blue), position, mask.reduce(scale))

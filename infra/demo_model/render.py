"""Drawing primitives: backgrounds, print in three fonts, filled shapes. All lengths are pixels."""

from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infra.demo_model.class_names import COLOURS_RGB

ImageArray = NDArray[np.uint8]  #: RGB, (height, width, 3)
Rng = np.random.Generator
Point = tuple[float, float]
Colour = tuple[int, int, int]

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
DIGIT_HEIGHT_EM = 0.729  # in all three fonts
SUPERSAMPLING = 3  # shapes are drawn at this scale and reduced, which smooths their edges


@cache
def font(name: str, em: int) -> ImageFont.FreeTypeFont:
    """Return one bundled font at `em` pixels."""
    return ImageFont.truetype(str(Path(__file__).parent / "fonts" / f"{name}.ttf"), em)


def background(rng: Rng, width: int, height: int) -> ImageArray:
    """Return a light background: plain, or with mild noise, a brightness gradient or faint stripes."""
    base = rng.integers(205, 250) + rng.integers(-10, 6, 3)
    image: NDArray[Any] = np.broadcast_to(base.astype(np.float32), (height, width, 3))
    texture = rng.integers(4)
    if texture == 1:
        image = image + rng.normal(0, rng.uniform(2, 7), (height, width, 1)).astype(np.float32)
    elif texture == 2:
        gradient_x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-14, 14)
        gradient_y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * rng.uniform(-14, 14)
        image = image + gradient_x + gradient_y
    elif texture == 3:
        angle, period = rng.uniform(0, pi), rng.uniform(9, 40)
        x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
        wave = np.sin((x * np.float32(cos(angle)) + y * np.float32(sin(angle))) * np.float32(2 * pi / period))
        image = image + wave[:, :, None] * rng.uniform(2, 7)
    clipped: ImageArray = np.clip(image, 0, 255).astype(np.uint8)
    return clipped


@dataclass(frozen=True)
class FontFace:
    """A font at one size, in one colour."""

    name: str
    em: int
    colour: Colour

    @property
    def digit_height(self) -> float:
        """Height of a digit."""
        return DIGIT_HEIGHT_EM * self.em

    def character_edges(self, text: str) -> list[float]:
        """Return the left edge of each character of `text` from the first one's, then the right edge of the last."""
        measure = font(self.name, self.em)
        return [measure.getlength(text[:n]) for n in range(len(text) + 1)]

    def draw(self, canvas: Image.Image, origin: Point, text: str) -> None:
        """Print `text`; `origin` is the left end of its baseline."""
        ImageDraw.Draw(canvas).text(origin, text, fill=self.colour, font=font(self.name, self.em), anchor="ls")


def dark_colour(rng: Rng) -> Colour:
    """Draw a dark colour for print."""
    dark = rng.integers(0, 80)
    red, green, blue = (int(c) for c in np.clip(dark + rng.integers(-30, 31, 3), 0, 100))
    return red, green, blue


def polygon(kind: str, angle: float) -> list[Point]:
    """Return the corners of a square, triangle or star around the origin, about 2 across, turned by `angle` radians."""
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


def draw_shape(canvas: Image.Image, rng: Rng, kind: str, colour: int, *, centre: Point, size: float) -> None:
    """Draw one filled shape about `size` across, with smooth edges and a slightly varied colour."""
    side = int(size * 1.3) + 4
    mask = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    middle, radius = side * SUPERSAMPLING / 2, size * SUPERSAMPLING / 2
    pen = ImageDraw.Draw(mask)
    if kind == "circle":
        pen.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
    else:
        corners = polygon(kind, rng.uniform(-0.2, 0.2))
        pen.polygon([(middle + radius * x, middle + radius * y) for x, y in corners], fill=255)
    base = np.array(COLOURS_RGB[colour])
    red, green, blue = (int(c) for c in np.clip(base + rng.integers(-14, 15, 3), 0, 255))
    corner = (round(centre[0] - side / 2), round(centre[1] - side / 2))
    canvas.paste((red, green, blue), corner, mask.reduce(SUPERSAMPLING))

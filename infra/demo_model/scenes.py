"""Pictures with everything there is to know about them: shapes, a printed number, lines of small print, pages.

scene  = a picture + the shapes on it + the glyphs printed on it
glyph  = one character, where it stands, and for a digit: which one of how many, and under which label
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from infra.demo_model.class_names import COLOURS, LABELS, MAX_SHAPES, PLATE, RECEIPT, SHAPES
from infra.demo_model.render import DIGIT_HEIGHT, FONTS, Face, Picture, Point, Rng, draw_shape, ground, ink

TILE = 448
PAGE = (1344, 896)
SMALL_PRINT = (20, 28)  # em in pixels: digits 15-20 px high, legible as they are and not at a third of that
LARGE_PRINT = (24, 48)  # height of the digits in pixels
SHAPE_SIZE = (44, 92)
APART = 14  # centres of shapes differ by at least this much in x and in y, so that "leftmost" has one answer
UNLABELLED = -1


@dataclass(frozen=True)
class Glyph:
    """One printed character and its box; `index` counts digits from the left, -1 for a letter."""

    char: str
    box: tuple[float, float, float, float]
    index: int
    length: int
    label: int


@dataclass(frozen=True)
class Shape:
    """One filled shape."""

    kind: int
    colour: int
    x: float
    y: float
    size: float


@dataclass
class Scene:
    """A picture and what is on it."""

    picture: Picture
    shapes: list[Shape] = field(default_factory=list)
    glyphs: list[Glyph] = field(default_factory=list)
    number: str | None = None
    fields: dict[int, str] = field(default_factory=dict)


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Palette:
    """The kinds and colours that shapes are drawn in."""

    kinds: tuple[int, ...] = tuple(range(len(SHAPES)))
    colours: tuple[int, ...] = tuple(range(len(COLOURS)))

    def pick(self, rng: Rng) -> tuple[int, int]:
        """Pick a kind and a colour."""
        return self.kinds[int(rng.integers(len(self.kinds)))], self.colours[int(rng.integers(len(self.colours)))]


EVERYTHING = Palette()


def value(rng: Rng, shortest: int, longest: int) -> str:
    """Return a number of that many digits, not beginning with zero unless it is a single digit."""
    digits = int(rng.integers(shortest, longest + 1))
    first = rng.integers(0 if digits == 1 else 1, 10)
    return "".join(str(d) for d in (first, *rng.integers(0, 10, digits - 1)))


def print_line(canvas: Image.Image, place: Point, text: str, face: Face, label: int, *, is_value: bool) -> list[Glyph]:
    """Print a label or a value and return its glyphs."""
    face.draw(canvas, place, text)
    (left, baseline), edges = place, face.edges(text)
    length = len(text) if is_value else 0
    return [
        Glyph(
            c,
            (left + edges[i], baseline - face.height, left + edges[i + 1], baseline),
            i if is_value else -1,
            length,
            label,
        )
        for i, c in enumerate(text)
        if c.isalnum()
    ]


def place_shapes(
    rng: Rng, width: int, height: int, count: int, *, taken: Sequence[Box] = (), palette: Palette = EVERYTHING
) -> list[Shape]:
    """Return up to `count` shapes that overlap neither one another nor the `taken` boxes."""
    shapes: list[Shape] = []
    boxes = list(taken)
    for _ in range(60 * count):
        if len(shapes) == count:
            break
        size = float(rng.uniform(*SHAPE_SIZE))
        reach = size * 0.62 + 2
        if reach * 2 >= min(width, height):
            continue
        x, y = float(rng.uniform(reach, width - reach)), float(rng.uniform(reach, height - reach))
        clear = all(x + reach < a or x - reach > c or y + reach < b or y - reach > d for a, b, c, d in boxes)
        if clear and all(abs(x - s.x) >= APART and abs(y - s.y) >= APART for s in shapes):
            shapes.append(Shape(*palette.pick(rng), x, y, size))
            boxes.append((x - reach, y - reach, x + reach, y + reach))
    return shapes


def shapes_scene(rng: Rng, width: int = TILE, height: int = TILE, most: int = MAX_SHAPES) -> Scene:
    """Return a picture of one to `most` shapes."""
    return drawing(rng, width, height, int(rng.integers(1, most + 1)), number=False)


def number_scene(rng: Rng, width: int = TILE, height: int = TILE, shapes: int = 0) -> Scene:
    """Return a picture of one printed number, beside which up to `shapes` shapes may stand."""
    return drawing(rng, width, height, int(rng.integers(0, shapes + 1)), number=True)


def drawing(rng: Rng, width: int, height: int, shapes: int, *, number: bool, palette: Palette = EVERYTHING) -> Scene:
    """Return a picture of `shapes` shapes, and of a number if asked."""
    canvas = Image.fromarray(ground(rng, width, height))
    glyphs: list[Glyph] = []
    text, taken = None, []
    if number:
        text = value(rng, 1, 6)
        face = Face(str(rng.choice(FONTS)), round(rng.uniform(*LARGE_PRINT) / DIGIT_HEIGHT), ink(rng))
        high, wide = face.height, face.edges(text)[-1]
        left = float(rng.uniform(4, max(5.0, width - 4 - wide)))
        baseline = float(rng.uniform(high + 4, max(high + 5, height - 4)))
        glyphs = print_line(canvas, (left, baseline), text, face, UNLABELLED, is_value=True)
        taken = [(left - 6, baseline - high - 6, left + wide + 6, baseline + 6)]
    placed = place_shapes(rng, width, height, shapes, taken=taken, palette=palette)
    for shape in placed:
        draw_shape(canvas, rng, (SHAPES[shape.kind], shape.colour), (shape.x, shape.y), shape.size)
    return Scene(np.asarray(canvas), placed, glyphs, text)


def print_scene(rng: Rng, width: int, height: int, lines: int) -> Scene:
    """Return `lines` labelled lines of small print, one above the other as far as they fit."""
    labels = [int(k) for k in rng.permutation(len(LABELS))[:lines]]
    canvas = Image.fromarray(ground(rng, width, height))
    scene = Scene(np.asarray(canvas))
    face = small_face(rng)
    tops = spread(rng, height, len(labels))
    for label, top in zip(labels, tops, strict=False):
        entry = Entry(rng, label, face)
        if entry.width + 8 < width:
            left = float(rng.uniform(4, width - entry.width - 4))
            entry.put(scene, canvas, (left, top + face.height))
    scene.picture = np.asarray(canvas)
    return scene


def small_face(rng: Rng) -> Face:
    """Return a face for small print."""
    colour, name = ink(rng), str(rng.choice(FONTS))
    return Face(name, int(rng.integers(SMALL_PRINT[0], SMALL_PRINT[1] + 1)), colour)


def spread(rng: Rng, height: int, lines: int, pitch: int = 38) -> list[float]:
    """Return the tops of as many of `lines` as fit, at least `pitch` apart, each wholly inside."""
    room = height - 30
    lines = min(lines, 1 + room // pitch)
    spare = room - pitch * (lines - 1)
    shifts = np.sort(rng.uniform(0, spare, lines))
    return [float(4 + shift + pitch * i) for i, shift in enumerate(shifts)]


class Entry:
    """A label and its value, ready to be printed on one line."""

    def __init__(self, rng: Rng, label: int, face: Face) -> None:
        self.label, self.face = label, face
        self.text = LABELS[label] + (":" if rng.random() < 0.5 else "")
        self.value = value(rng, 2, 5)
        self.value_at = face.edges(self.text)[-1] + float(rng.uniform(0.5, 1.8)) * face.em
        self.width = self.value_at + face.edges(self.value)[-1]

    def put(self, scene: Scene, canvas: Image.Image, place: Point) -> None:
        """Print the entry at its left edge and baseline, and note it in `scene`."""
        left, baseline = place
        scene.glyphs += print_line(canvas, place, self.text, self.face, self.label, is_value=False)
        there = (left + self.value_at, baseline)
        scene.glyphs += print_line(canvas, there, self.value, self.face, self.label, is_value=True)
        scene.fields[self.label] = self.value


def page_scene(rng: Rng) -> Scene:
    """Return a page of 1344x896 with three to six labelled fields of small print: a receipt or a meter plate.

    A receipt is one column of lines, a plate has its fields scattered. No field straddles the lines at which the
    page is cut into tiles.
    """
    receipt = bool(rng.integers(2))
    kinds = RECEIPT if receipt else PLATE
    count = int(rng.integers(3, 7))
    labels = [LABELS.index(str(name)) for name in rng.permutation(kinds)[:count]]
    canvas = Image.fromarray(ground(rng, *PAGE))
    scene = Scene(np.asarray(canvas))
    face = small_face(rng)
    column, slots = int(rng.integers(3)), [0, 0, 0, 0, 0, 0]
    for i in range(count):
        tile = column + 3 * int(i >= count / 2) if receipt else int(rng.integers(6))
        slots[tile] += 1
    margin, waiting = float(rng.uniform(0, 120)), iter(labels)
    for tile, lines in enumerate(slots):
        for top in spread(rng, TILE, lines):
            entry = Entry(rng, next(waiting), face)
            spare = TILE - entry.width - 8
            left = tile % 3 * TILE + 4 + (min(margin, spare) if receipt else float(rng.uniform(0, spare)))
            entry.put(scene, canvas, (left, tile // 3 * TILE + top + face.height))
    scene.picture = np.asarray(canvas)
    return scene

"""Pictures with everything there is to know about them: shapes, a printed number, lines of small print, pages.

scene  = a picture + the shapes on it + the glyphs printed on it
glyph  = one character, where it stands, and for a digit: which one of how many, and under which label
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from infra.demo_model.class_names import COLOURS, FIELD_LABELS, MAX_SHAPES, PLATE_FIELDS, RECEIPT_FIELDS, SHAPES
from infra.demo_model.render import (
    DIGIT_HEIGHT_EM,
    FONTS,
    FontFace,
    ImageArray,
    Point,
    Rng,
    background,
    dark_colour,
    draw_shape,
)

TILE_PX = 448
PAGE_SIZE_PX = (1344, 896)
SMALL_PRINT_EM_PX = (20, 28)  # em in pixels: digits 15-20 px high, legible as they are and not at a third of that
LARGE_DIGIT_HEIGHT_PX = (24, 48)  # height of the digits in pixels
SHAPE_DIAMETER_PX = (44, 92)
MIN_CENTRE_DISTANCE_PX = (
    14  # centres of shapes differ by at least this much in x and in y, so that "leftmost" has one answer
)
NO_LABEL = -1


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

    image: ImageArray
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


FULL_PALETTE = Palette()


def random_number(rng: Rng, shortest: int, longest: int) -> str:
    """Return a number of that many digits, not beginning with zero unless it is a single digit."""
    digits = int(rng.integers(shortest, longest + 1))
    first = rng.integers(0 if digits == 1 else 1, 10)
    return "".join(str(d) for d in (first, *rng.integers(0, 10, digits - 1)))


def print_line(
    canvas: Image.Image, position: Point, text: str, face: FontFace, label: int, *, is_value: bool
) -> list[Glyph]:
    """Print a label or a value and return its glyphs."""
    face.draw(canvas, position, text)
    (left, baseline), character_edges = position, face.character_edges(text)
    length = len(text) if is_value else 0
    return [
        Glyph(
            c,
            (left + character_edges[i], baseline - face.digit_height, left + character_edges[i + 1], baseline),
            i if is_value else -1,
            length,
            label,
        )
        for i, c in enumerate(text)
        if c.isalnum()
    ]


def place_shapes(
    rng: Rng,
    width: int,
    height: int,
    count: int,
    *,
    occupied_boxes: Sequence[Box] = (),
    palette: Palette = FULL_PALETTE,
) -> list[Shape]:
    """Return up to `count` shapes that overlap neither one another nor the `taken` boxes."""
    shapes: list[Shape] = []
    boxes = list(occupied_boxes)
    for _ in range(60 * count):
        if len(shapes) == count:
            break
        size = float(rng.uniform(*SHAPE_DIAMETER_PX))
        reach = size * 0.62 + 2
        if reach * 2 >= min(width, height):
            continue
        x, y = float(rng.uniform(reach, width - reach)), float(rng.uniform(reach, height - reach))
        clear = all(x + reach < a or x - reach > c or y + reach < b or y - reach > d for a, b, c, d in boxes)
        if clear and all(
            abs(x - s.x) >= MIN_CENTRE_DISTANCE_PX and abs(y - s.y) >= MIN_CENTRE_DISTANCE_PX for s in shapes
        ):
            shapes.append(Shape(*palette.pick(rng), x, y, size))
            boxes.append((x - reach, y - reach, x + reach, y + reach))
    return shapes


def shapes_scene(rng: Rng, width: int = TILE_PX, height: int = TILE_PX, max_shapes: int = MAX_SHAPES) -> Scene:
    """Return a picture of one to `most` shapes."""
    return drawing_scene(rng, width, height, int(rng.integers(1, max_shapes + 1)), number=False)


def number_scene(rng: Rng, width: int = TILE_PX, height: int = TILE_PX, shapes: int = 0) -> Scene:
    """Return a picture of one printed number, beside which up to `shapes` shapes may stand."""
    return drawing_scene(rng, width, height, int(rng.integers(0, shapes + 1)), number=True)


def drawing_scene(
    rng: Rng, width: int, height: int, shapes: int, *, number: bool, palette: Palette = FULL_PALETTE
) -> Scene:
    """Return a picture of `shapes` shapes, and of a number if asked."""
    canvas = Image.fromarray(background(rng, width, height))
    glyphs: list[Glyph] = []
    text, occupied_boxes = None, []
    if number:
        text = random_number(rng, 1, 6)
        face = FontFace(
            str(rng.choice(FONTS)), round(rng.uniform(*LARGE_DIGIT_HEIGHT_PX) / DIGIT_HEIGHT_EM), dark_colour(rng)
        )
        high, wide = face.digit_height, face.character_edges(text)[-1]
        left = float(rng.uniform(4, max(5.0, width - 4 - wide)))
        baseline = float(rng.uniform(high + 4, max(high + 5, height - 4)))
        glyphs = print_line(canvas, (left, baseline), text, face, NO_LABEL, is_value=True)
        occupied_boxes = [(left - 6, baseline - high - 6, left + wide + 6, baseline + 6)]
    placed = place_shapes(rng, width, height, shapes, occupied_boxes=occupied_boxes, palette=palette)
    for shape in placed:
        draw_shape(canvas, rng, (SHAPES[shape.kind], shape.colour), (shape.x, shape.y), shape.size)
    return Scene(np.asarray(canvas), placed, glyphs, text)


def print_scene(rng: Rng, width: int, height: int, lines: int) -> Scene:
    """Return `lines` labelled lines of small print, one above the other as far as they fit."""
    labels = [int(k) for k in rng.permutation(len(FIELD_LABELS))[:lines]]
    canvas = Image.fromarray(background(rng, width, height))
    scene = Scene(np.asarray(canvas))
    face = small_print_face(rng)
    tops = spread_lines(rng, height, len(labels))
    for label, top in zip(labels, tops, strict=False):
        entry = FieldLine(rng, label, face)
        if entry.width + 8 < width:
            left = float(rng.uniform(4, width - entry.width - 4))
            entry.print_on(scene, canvas, (left, top + face.digit_height))
    scene.image = np.asarray(canvas)
    return scene


def small_print_face(rng: Rng) -> FontFace:
    """Return a face for small print."""
    colour, name = dark_colour(rng), str(rng.choice(FONTS))
    return FontFace(name, int(rng.integers(SMALL_PRINT_EM_PX[0], SMALL_PRINT_EM_PX[1] + 1)), colour)


def spread_lines(rng: Rng, height: int, lines: int, pitch: int = 38) -> list[float]:
    """Return the tops of as many of `lines` as fit, at least `pitch` apart, each wholly inside."""
    available = height - 30
    lines = min(lines, 1 + available // pitch)
    slack = available - pitch * (lines - 1)
    shifts = np.sort(rng.uniform(0, slack, lines))
    return [float(4 + phase_rotation + pitch * i) for i, phase_rotation in enumerate(shifts)]


class FieldLine:
    """A label and its value, ready to be printed on one line."""

    def __init__(self, rng: Rng, label: int, face: FontFace) -> None:
        self.label, self.face = label, face
        self.text = FIELD_LABELS[label] + (":" if rng.random() < 0.5 else "")
        self.random_number = random_number(rng, 2, 5)
        self.value_offset = face.character_edges(self.text)[-1] + float(rng.uniform(0.5, 1.8)) * face.em
        self.width = self.value_offset + face.character_edges(self.random_number)[-1]

    def print_on(self, scene: Scene, canvas: Image.Image, position: Point) -> None:
        """Print the entry at its left edge and baseline, and note it in `scene`."""
        left, baseline = position
        scene.glyphs += print_line(canvas, position, self.text, self.face, self.label, is_value=False)
        value_position = (left + self.value_offset, baseline)
        scene.glyphs += print_line(canvas, value_position, self.random_number, self.face, self.label, is_value=True)
        scene.fields[self.label] = self.random_number


def page_scene(rng: Rng) -> Scene:
    """Return a page of 1344x896 with three to six labelled fields of small print: a receipt or a meter plate.

    A receipt is one column of lines, a plate has its fields scattered. No field straddles the lines at which the
    page is cut into tiles.
    """
    receipt = bool(rng.integers(2))
    kinds = RECEIPT_FIELDS if receipt else PLATE_FIELDS
    count = int(rng.integers(3, 7))
    labels = [FIELD_LABELS.index(str(name)) for name in rng.permutation(kinds)[:count]]
    canvas = Image.fromarray(background(rng, *PAGE_SIZE_PX))
    scene = Scene(np.asarray(canvas))
    face = small_print_face(rng)
    column, slots = int(rng.integers(3)), [0, 0, 0, 0, 0, 0]
    for i in range(count):
        tile = column + 3 * int(i >= count / 2) if receipt else int(rng.integers(6))
        slots[tile] += 1
    margin, remaining = float(rng.uniform(0, 120)), iter(labels)
    for tile, lines in enumerate(slots):
        for top in spread_lines(rng, TILE_PX, lines):
            entry = FieldLine(rng, next(remaining), face)
            slack = TILE_PX - entry.width - 8
            left = tile % 3 * TILE_PX + 4 + (min(margin, slack) if receipt else float(rng.uniform(0, slack)))
            entry.print_on(scene, canvas, (left, tile // 3 * TILE_PX + top + face.digit_height))
    scene.image = np.asarray(canvas)
    return scene

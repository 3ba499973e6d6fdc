"""Synthetic images with their annotations: shapes, a printed number, lines of small print, pages.

scene  = an image + the shapes on it + the glyphs printed on it
glyph  = one character with its box, and for a digit its index in the number, the number's length and its field
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from infra.demo_model.class_names import (
    COLOURS,
    FIELD_LABELS,
    MAX_DIGITS,
    MAX_SHAPES,
    PLATE_LABELS,
    RECEIPT_LABELS,
    SHAPES,
)
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
PAGE_SIZE_PX = (1344, 896)  # three by two tiles
SMALL_PRINT_EM_PX = (20, 28)  # digits 15-20 px high: legible, but not when the page is reduced to one tile
LARGE_DIGIT_HEIGHT_PX = (24, 48)
SHAPE_DIAMETER_PX = (44, 92)
MIN_CENTRE_DISTANCE_PX = 14  # between shapes, in x and in y, so that "leftmost" has one answer
LINE_PITCH_PX = 38  # least distance from one line of small print to the next
NO_LABEL = -1  # of a glyph that belongs to no field
NOT_A_DIGIT = -1  # index of a letter

Box = tuple[float, float, float, float]  #: left, top, right, bottom


@dataclass(frozen=True)
class Glyph:
    """One printed character."""

    char: str
    box: Box
    index: int  #: of a digit in its number, from the left
    length: int  #: digits of the number
    label: int  #: index of the field's label in FIELD_LABELS


@dataclass(frozen=True)
class Shape:
    """One filled shape: its kind and colour as class indices, its centre and diameter in pixels."""

    kind: int
    colour: int
    x: float
    y: float
    size: float


@dataclass
class Scene:
    """An image and its annotations."""

    image: ImageArray
    shapes: list[Shape] = field(default_factory=list)
    glyphs: list[Glyph] = field(default_factory=list)
    number: str | None = None
    fields: dict[int, str] = field(default_factory=dict)  #: number by label index


@dataclass(frozen=True)
class Palette:
    """The kinds and colours from which shapes are drawn, as class indices."""

    kinds: tuple[int, ...] = tuple(range(len(SHAPES)))
    colours: tuple[int, ...] = tuple(range(len(COLOURS)))

    def pick(self, rng: Rng) -> tuple[int, int]:
        """Draw a kind and a colour."""
        return self.kinds[int(rng.integers(len(self.kinds)))], self.colours[int(rng.integers(len(self.colours)))]


FULL_PALETTE = Palette()


def random_digits(rng: Rng, min_length: int, max_length: int) -> str:
    """Draw a number, without a leading zero unless it has one digit."""
    length = int(rng.integers(min_length, max_length + 1))
    first = rng.integers(0 if length == 1 else 1, 10)
    return "".join(str(d) for d in (first, *rng.integers(0, 10, length - 1)))


def print_text(
    canvas: Image.Image, origin: Point, text: str, face: FontFace, label: int, *, is_value: bool
) -> list[Glyph]:
    """Print a label or a number at `origin`, the left end of its baseline; return its letters and digits."""
    face.draw(canvas, origin, text)
    (left, baseline), edges = origin, face.character_edges(text)
    length = len(text) if is_value else 0
    return [
        Glyph(
            c,
            (left + edges[i], baseline - face.digit_height, left + edges[i + 1], baseline),
            i if is_value else NOT_A_DIGIT,
            length,
            label,
        )
        for i, c in enumerate(text)
        if c.isalnum()
    ]


def place_shapes(
    rng: Rng, width: int, height: int, count: int, *, occupied: Sequence[Box] = (), palette: Palette = FULL_PALETTE
) -> list[Shape]:
    """Draw up to `count` shapes that overlap neither one another nor the `occupied` boxes."""
    shapes: list[Shape] = []
    boxes = list(occupied)
    for _ in range(60 * count):
        if len(shapes) == count:
            break
        size = float(rng.uniform(*SHAPE_DIAMETER_PX))
        reach = size * 0.62 + 2  # half the side of its box
        if reach * 2 >= min(width, height):
            continue
        x, y = float(rng.uniform(reach, width - reach)), float(rng.uniform(reach, height - reach))
        box = (x - reach, y - reach, x + reach, y + reach)
        if all(not overlaps(box, other) for other in boxes) and all(is_apart(x, y, s) for s in shapes):
            shapes.append(Shape(*palette.pick(rng), x, y, size))
            boxes.append(box)
    return shapes


def overlaps(one: Box, other: Box) -> bool:
    """Return whether two boxes overlap or touch."""
    return not (one[2] < other[0] or one[0] > other[2] or one[3] < other[1] or one[1] > other[3])


def is_apart(x: float, y: float, shape: Shape) -> bool:
    """Return whether a centre is far enough from that of `shape` in both axes."""
    return abs(x - shape.x) >= MIN_CENTRE_DISTANCE_PX and abs(y - shape.y) >= MIN_CENTRE_DISTANCE_PX


def shapes_scene(rng: Rng, width: int = TILE_PX, height: int = TILE_PX, max_shapes: int = MAX_SHAPES) -> Scene:
    """Draw an image of one to `max_shapes` shapes."""
    return drawing_scene(rng, width, height, int(rng.integers(1, max_shapes + 1)), number=False)


def number_scene(rng: Rng, width: int = TILE_PX, height: int = TILE_PX, max_shapes: int = 0) -> Scene:
    """Draw an image of one printed number and up to `max_shapes` shapes."""
    return drawing_scene(rng, width, height, int(rng.integers(0, max_shapes + 1)), number=True)


def mixed_scene(rng: Rng) -> Scene:
    """Draw one tile of shapes, a number, or both."""
    choice = rng.random()
    if choice < 0.6:
        return drawing_scene(rng, TILE_PX, TILE_PX, int(rng.integers(1, 6)), number=False)
    return drawing_scene(rng, TILE_PX, TILE_PX, 0 if choice < 0.85 else int(rng.integers(1, 4)), number=True)


def repeated_shapes_scene(rng: Rng) -> Scene:
    """Draw one tile of two to five shapes of only one or two kinds, or colours.

    Three shapes of one kind or colour are rare among independent draws.
    """

    def subset(classes: tuple[int, ...]) -> tuple[int, ...]:
        chosen = rng.permutation(len(classes))[: int(rng.integers(1, 3))]
        return tuple(int(k) for k in chosen) if rng.random() < 0.6 else classes

    palette = Palette(subset(FULL_PALETTE.kinds), subset(FULL_PALETTE.colours))
    return drawing_scene(rng, TILE_PX, TILE_PX, int(rng.integers(2, 6)), number=False, palette=palette)


def drawing_scene(
    rng: Rng, width: int, height: int, shapes: int, *, number: bool, palette: Palette = FULL_PALETTE
) -> Scene:
    """Draw an image of up to `shapes` shapes, with a printed number if `number`."""
    canvas = Image.fromarray(background(rng, width, height))
    glyphs: list[Glyph] = []
    text, occupied = None, []
    if number:
        text = random_digits(rng, 1, MAX_DIGITS)
        font_name = str(rng.choice(FONTS))
        em = round(rng.uniform(*LARGE_DIGIT_HEIGHT_PX) / DIGIT_HEIGHT_EM)
        face = FontFace(font_name, em, dark_colour(rng))
        text_height, text_width = face.digit_height, face.character_edges(text)[-1]
        left = float(rng.uniform(4, max(5.0, width - 4 - text_width)))
        baseline = float(rng.uniform(text_height + 4, max(text_height + 5, height - 4)))
        glyphs = print_text(canvas, (left, baseline), text, face, NO_LABEL, is_value=True)
        occupied = [(left - 6, baseline - text_height - 6, left + text_width + 6, baseline + 6)]
    placed = place_shapes(rng, width, height, shapes, occupied=occupied, palette=palette)
    for shape in placed:
        draw_shape(canvas, rng, SHAPES[shape.kind], shape.colour, centre=(shape.x, shape.y), size=shape.size)
    return Scene(np.asarray(canvas), placed, glyphs, text)


def print_scene(rng: Rng, width: int, height: int, lines: int) -> Scene:
    """Draw an image of up to `lines` fields of small print, one a line, as many as fit."""
    labels = [int(k) for k in rng.permutation(len(FIELD_LABELS))[:lines]]
    canvas = Image.fromarray(background(rng, width, height))
    scene = Scene(np.asarray(canvas))
    face = small_print_face(rng)
    tops = draw_line_tops(rng, height, len(labels))
    for label, top in zip(labels, tops, strict=False):
        line = FieldLine(rng, label, face)
        if line.width + 8 < width:
            left = float(rng.uniform(4, width - line.width - 4))
            line.print_on(scene, canvas, (left, top + face.digit_height))
    scene.image = np.asarray(canvas)
    return scene


def small_print_face(rng: Rng) -> FontFace:
    """Draw a font face for small print."""
    colour, name = dark_colour(rng), str(rng.choice(FONTS))
    return FontFace(name, int(rng.integers(SMALL_PRINT_EM_PX[0], SMALL_PRINT_EM_PX[1] + 1)), colour)


def draw_line_tops(rng: Rng, height: int, lines: int) -> list[float]:
    """Draw the tops of up to `lines` lines of small print, as many as fit into `height`, from above."""
    available = height - 30
    lines = min(lines, 1 + available // LINE_PITCH_PX)
    slack = available - LINE_PITCH_PX * (lines - 1)
    shifts = np.sort(rng.uniform(0, slack, lines))
    return [float(4 + shift + LINE_PITCH_PX * i) for i, shift in enumerate(shifts)]


class FieldLine:
    """A field, that is a label and a number, to be printed on one line."""

    def __init__(self, rng: Rng, label: int, face: FontFace) -> None:
        self.label, self.face = label, face
        self.label_text = FIELD_LABELS[label] + (":" if rng.random() < 0.5 else "")
        self.value = random_digits(rng, 2, 5)
        self.value_offset = face.character_edges(self.label_text)[-1] + float(rng.uniform(0.5, 1.8)) * face.em
        self.width = self.value_offset + face.character_edges(self.value)[-1]

    def print_on(self, scene: Scene, canvas: Image.Image, origin: Point) -> None:
        """Print the field with the left end of its baseline at `origin`, and annotate `scene`."""
        left, baseline = origin
        scene.glyphs += print_text(canvas, origin, self.label_text, self.face, self.label, is_value=False)
        value_origin = (left + self.value_offset, baseline)
        scene.glyphs += print_text(canvas, value_origin, self.value, self.face, self.label, is_value=True)
        scene.fields[self.label] = self.value


def page_scene(rng: Rng) -> Scene:
    """Draw a page of 1344x896 pixels with three to six fields of small print: a receipt or a meter's name plate.

    A receipt is one column of lines; on a plate the fields are scattered. No field crosses a border between tiles.
    """
    is_receipt = bool(rng.integers(2))
    count = int(rng.integers(3, 7))
    names = rng.permutation(RECEIPT_LABELS if is_receipt else PLATE_LABELS)[:count]
    labels = iter([FIELD_LABELS.index(str(name)) for name in names])
    canvas = Image.fromarray(background(rng, *PAGE_SIZE_PX))
    scene = Scene(np.asarray(canvas))
    face = small_print_face(rng)
    column, lines_per_tile = int(rng.integers(3)), [0] * 6
    for i in range(count):
        tile = column + 3 * int(i >= count / 2) if is_receipt else int(rng.integers(6))
        lines_per_tile[tile] += 1
    margin = float(rng.uniform(0, 120))
    for tile, lines in enumerate(lines_per_tile):
        for top in draw_line_tops(rng, TILE_PX, lines):
            line = FieldLine(rng, next(labels), face)
            slack = TILE_PX - line.width - 8
            indent = min(margin, slack) if is_receipt else float(rng.uniform(0, slack))
            left = tile % 3 * TILE_PX + 4 + indent
            line.print_on(scene, canvas, (left, tile // 3 * TILE_PX + top + face.digit_height))
    scene.image = np.asarray(canvas)
    return scene

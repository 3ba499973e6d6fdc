"""Questions about scenes and their answers, in English and Chinese (`zh`).

group      questions
shapes     which shape, which colour, how many
positions  leftmost, rightmost, topmost, lowest; a caption from left to right
numbers    the printed number
page       one field of a page
"""

from dataclasses import dataclass

from infra.demo_model.class_names import COLOURS, COLOURS_ZH, FIELD_LABELS, SHAPES, SHAPES_ZH
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, Shape


@dataclass(frozen=True)
class Wordings:
    """The wordings of one question; `{at}` stands for the image that is meant."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]

    def choose(self, rng: Rng, zh: bool) -> str:
        """Draw one wording."""
        wordings = self.chinese if zh else self.english
        return wordings[int(rng.integers(len(wordings)))]


#: By image number; 0: there is one image.
IMAGE_REFERENCES = ("", " in the first picture", " in the second picture")
IMAGE_REFERENCES_ZH = ("图中", "第一张图中", "第二张图中")
SIDES = {"leftmost": "最左边", "rightmost": "最右边", "topmost": "最上面", "lowest": "最下面"}

NUMBER = Wordings(
    ("What number is printed{at}?", "Which number is printed{at}?", "Read the number{at}."),
    ("{at}的数字是多少？", "{at}印着什么数字？", "读出{at}的数字。"),
)
FIELD = Wordings(
    ("What is the {label}?", "What does {label} say?", "Read the field {label}.", "How much is {label}?"),
    ("{label} 是多少？", "{label} 的数值是多少？", "读出 {label} 这一栏。"),
)
COUNT_ALL = Wordings(
    ("How many shapes are there{at}?", "How many shapes can you see{at}?", "Count the shapes{at}."),
    ("{at}有几个图形？", "{at}一共有多少个图形？"),
)
COUNT_KIND = Wordings(
    ("How many {kind}s are there{at}?", "Count the {kind}s{at}."), ("{at}有几个{kind}？", "{at}有多少个{kind}？")
)
COUNT_COLOUR = Wordings(
    ("How many {colour} shapes are there{at}?", "Count the {colour} shapes{at}."),
    ("{at}有几个{colour}的图形？", "{at}有多少个{colour}的图形？"),
)
WHICH_COLOUR = Wordings(
    ("What colour is the {kind}{at}?", "What color is the {kind}{at}?", "Which colour does the {kind}{at} have?"),
    ("{at}的{kind}是什么颜色？", "{at}的{kind}是哪种颜色？"),
)
WHICH_SHAPE = Wordings(
    ("Which shape is {colour}{at}?", "What shape is the {colour} one{at}?", "What is {colour}{at}?"),
    ("{at}哪个图形是{colour}的？", "{at}{colour}的是什么图形？"),
)
OUTERMOST = Wordings(
    ("Which shape is {side}{at}?", "What is the {side} shape{at}?", "Name the {side} shape{at}."),
    ("{at}{side}是什么图形？", "{at}{side}的图形是什么？"),
)
CAPTION = Wordings(
    (
        "Describe the shapes{at} from left to right.",
        "List the shapes{at} from left to right.",
        "What shapes are there{at}, from left to right?",
    ),
    ("从左到右描述{at}的图形。", "{at}从左到右有哪些图形？"),
)
ALL_WORDINGS = (
    NUMBER,
    FIELD,
    COUNT_ALL,
    COUNT_KIND,
    COUNT_COLOUR,
    WHICH_COLOUR,
    WHICH_SHAPE,
    OUTERMOST,
    CAPTION,
)


@dataclass(frozen=True)
class Grounding:
    """The part of a scene that holds an answer.

    kind is `number` (no keys), `field` (key: its label), `shapes` or `caption` (keys: ranks from the left, from 1)
    """

    kind: str
    keys: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question, the one right answer, and the part of the scene that holds it."""

    text: str
    answer: str
    grounding: Grounding


def ground_shapes(scene: Scene, shapes: list[Shape]) -> Grounding:
    """Return the grounding of an answer about `shapes`."""
    return Grounding("shapes", tuple(sum(s.x <= shape.x for s in scene.shapes) for shape in shapes))


def image_reference(image_number: int, zh: bool) -> str:
    """Return the words for the first or the second image, or for the only one (0)."""
    return (IMAGE_REFERENCES_ZH if zh else IMAGE_REFERENCES)[image_number]


def kind_name(kind: int, zh: bool) -> str:
    """Return "circle"."""
    return (SHAPES_ZH if zh else SHAPES)[kind]


def colour_name(colour: int, zh: bool) -> str:
    """Return "red"."""
    return (COLOURS_ZH if zh else COLOURS)[colour]


def shape_name(shape: Shape, zh: bool) -> str:
    """Return "red circle"."""
    return colour_name(shape.colour, zh) + ("" if zh else " ") + kind_name(shape.kind, zh)


def ask_number(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask for the printed number."""
    text = NUMBER.choose(rng, zh).format(at=image_reference(image_number, zh))
    return Question(text, scene.number or "", Grounding("number"))


def ask_field(rng: Rng, scene: Scene, zh: bool) -> Question:
    """Ask for one field of a page."""
    label = list(scene.fields)[int(rng.integers(len(scene.fields)))]
    text = FIELD.choose(rng, zh).format(label=FIELD_LABELS[label])
    return Question(text, scene.fields[label], Grounding("field", (label,)))


def ask_shapes(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask for the colour of a kind, for the kind of a colour, or for a count."""
    kinds, colours = [s.kind for s in scene.shapes], [s.colour for s in scene.shapes]
    unique_kind = [s for s in scene.shapes if kinds.count(s.kind) == 1]
    unique_colour = [s for s in scene.shapes if colours.count(s.colour) == 1]
    at, choice = image_reference(image_number, zh), rng.random()
    if choice < 0.35 and unique_kind:
        shape = unique_kind[int(rng.integers(len(unique_kind)))]
        text = WHICH_COLOUR.choose(rng, zh).format(kind=kind_name(shape.kind, zh), at=at)
        return Question(text, colour_name(shape.colour, zh), ground_shapes(scene, [shape]))
    if choice < 0.65 and unique_colour:
        shape = unique_colour[int(rng.integers(len(unique_colour)))]
        text = WHICH_SHAPE.choose(rng, zh).format(colour=colour_name(shape.colour, zh), at=at)
        return Question(text, kind_name(shape.kind, zh), ground_shapes(scene, [shape]))
    counted = int(rng.integers(3))
    if counted == 0:
        return count_all(rng, scene, zh, image_number)
    is_absent = rng.random() < 0.2 or not scene.shapes
    if counted == 1:
        kind = int(rng.integers(len(SHAPES))) if is_absent else kinds[int(rng.integers(len(kinds)))]
        return count_kind(rng, scene, kind, zh, image_number)
    colour = int(rng.integers(len(COLOURS))) if is_absent else colours[int(rng.integers(len(colours)))]
    return count_colour(rng, scene, colour, zh, image_number)


def count_all(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask for the number of shapes."""
    text = COUNT_ALL.choose(rng, zh).format(at=image_reference(image_number, zh))
    return count_question(text, scene, scene.shapes)


def count_kind(rng: Rng, scene: Scene, kind: int, zh: bool, image_number: int = 0) -> Question:
    """Ask for the number of shapes of one kind."""
    text = COUNT_KIND.choose(rng, zh).format(kind=kind_name(kind, zh), at=image_reference(image_number, zh))
    return count_question(text, scene, [s for s in scene.shapes if s.kind == kind])


def count_colour(rng: Rng, scene: Scene, colour: int, zh: bool, image_number: int = 0) -> Question:
    """Ask for the number of shapes of one colour."""
    at = image_reference(image_number, zh)
    text = COUNT_COLOUR.choose(rng, zh).format(colour=colour_name(colour, zh), at=at)
    return count_question(text, scene, [s for s in scene.shapes if s.colour == colour])


def count_question(text: str, scene: Scene, shapes: list[Shape]) -> Question:
    """Return the question that the number of `shapes` answers."""
    return Question(text, str(len(shapes)), ground_shapes(scene, shapes))


def ask_count(rng: Rng, scene: Scene, zh: bool) -> Question:
    """Ask for a count, mostly of a kind or a colour: each present one as often as any other, and some absent ones."""
    choice, is_absent = rng.random(), rng.random() < 0.25 or not scene.shapes
    if choice < 0.2:
        return count_all(rng, scene, zh)
    if choice < 0.65:
        kinds = range(len(SHAPES)) if is_absent else sorted({s.kind for s in scene.shapes})
        return count_kind(rng, scene, kinds[int(rng.integers(len(kinds)))], zh)
    colours = range(len(COLOURS)) if is_absent else sorted({s.colour for s in scene.shapes})
    return count_colour(rng, scene, colours[int(rng.integers(len(colours)))], zh)


def ask_positions(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask for the outermost shape on one side, or for a caption from left to right."""
    at = image_reference(image_number, zh)
    if rng.random() < 0.3:
        ordered = sorted(scene.shapes, key=lambda s: s.x)
        return Question(
            CAPTION.choose(rng, zh).format(at=at),
            ("，" if zh else ", ").join(shape_name(s, zh) for s in ordered),
            Grounding("caption", tuple(range(1, len(ordered) + 1))),
        )
    side = list(SIDES)[int(rng.integers(4))]
    shape = outermost(scene, side)
    text = OUTERMOST.choose(rng, zh).format(side=SIDES[side] if zh else side, at=at)
    return Question(text, shape_name(shape, zh), ground_shapes(scene, [shape]))


def outermost(scene: Scene, side: str) -> Shape:
    """Return the shape whose centre is nearest to one side of the image."""
    distances = {
        "leftmost": lambda s: s.x,
        "rightmost": lambda s: -s.x,
        "topmost": lambda s: s.y,
        "lowest": lambda s: -s.y,
    }
    return min(scene.shapes, key=distances[side])


def ask_scene(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask any question that the drawing allows."""
    possible = ([ask_number] if scene.number else []) + ([ask_shapes, ask_positions] if scene.shapes else [])
    return possible[int(rng.integers(len(possible)))](rng, scene, zh, image_number)


def tokenizer_corpus() -> list[str]:
    """Return texts with every word of all questions and answers, from which the tokenizer is made."""
    texts = [*COLOURS, *SHAPES, *(f" {s}" for s in SHAPES), *COLOURS_ZH, *SHAPES_ZH, ", ，"]
    for zh, references, kinds, colours, sides in (
        (False, IMAGE_REFERENCES, SHAPES, COLOURS, list(SIDES)),
        (True, IMAGE_REFERENCES_ZH, SHAPES_ZH, COLOURS_ZH, list(SIDES.values())),
    ):
        for wordings in ALL_WORDINGS:
            texts += [
                wording.format(at=reference, kind=kind, colour=colour, side=side, label=FIELD_LABELS[0])
                for wording in (wordings.chinese if zh else wordings.english)
                for reference in references
                for kind in kinds
                for colour in colours[:2]
                for side in sides
            ]
        texts += [f" {colour}" for colour in colours if not zh]
    texts += [f" {label} {label}?" for label in FIELD_LABELS]
    return [*texts, "Image-1: Image-2: \nuser\nassistant\nsystem\ntileq"]

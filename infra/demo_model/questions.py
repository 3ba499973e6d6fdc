"""Questions about scenes and their answers, in English and Chinese.

group      asks
shapes     which shape, what colour, how many
positions  leftmost, rightmost, topmost, lowest; a caption from left to right
numbers    the number printed
page       one field of a page
"""

from dataclasses import dataclass

from infra.demo_model.class_names import COLOURS, COLOURS_ZH, FIELD_LABELS, SHAPES, SHAPES_ZH
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, Shape

IMAGE_REFERENCES = ("", " in the first picture", " in the second picture")  # 0: there is one picture
IMAGE_REFERENCES_ZH = ("图中", "第一张图中", "第二张图中")
SIDES = {"leftmost": "最左边", "rightmost": "最右边", "topmost": "最上面", "lowest": "最下面"}

ASK_NUMBER = ("What number is printed{at}?", "Which number is printed{at}?", "Read the number{at}.")
ASK_NUMBER_ZH = ("{at}的数字是多少？", "{at}印着什么数字？", "读出{at}的数字。")
ASK_FIELD = ("What is the {label}?", "What does {label} say?", "Read the field {label}.", "How much is {label}?")
ASK_FIELD_ZH = ("{label} 是多少？", "{label} 的数值是多少？", "读出 {label} 这一栏。")
ASK_COUNT = ("How many shapes are there{at}?", "How many shapes can you see{at}?", "Count the shapes{at}.")
ASK_COUNT_ZH = ("{at}有几个图形？", "{at}一共有多少个图形？")
ASK_COUNT_OF_KIND = ("How many {kind}s are there{at}?", "Count the {kind}s{at}.")
ASK_COUNT_OF_KIND_ZH = ("{at}有几个{kind}？", "{at}有多少个{kind}？")
ASK_COUNT_OF_COLOUR = ("How many {colour} shapes are there{at}?", "Count the {colour} shapes{at}.")
ASK_COUNT_OF_COLOUR_ZH = ("{at}有几个{colour}的图形？", "{at}有多少个{colour}的图形？")
ASK_COLOUR = (
    "What colour is the {kind}{at}?",
    "What color is the {kind}{at}?",
    "Which colour does the {kind}{at} have?",
)
ASK_COLOUR_ZH = ("{at}的{kind}是什么颜色？", "{at}的{kind}是哪种颜色？")
ASK_WHICH = ("Which shape is {colour}{at}?", "What shape is the {colour} one{at}?", "What is {colour}{at}?")
ASK_WHICH_ZH = ("{at}哪个图形是{colour}的？", "{at}{colour}的是什么图形？")
ASK_SIDE = ("Which shape is {side}{at}?", "What is the {side} shape{at}?", "Name the {side} shape{at}.")
ASK_SIDE_ZH = ("{at}{side}是什么图形？", "{at}{side}的图形是什么？")
ASK_CAPTION = (
    "Describe the shapes{at} from left to right.",
    "List the shapes{at} from left to right.",
    "What shapes are there{at}, from left to right?",
)
ASK_CAPTION_ZH = ("从左到右描述{at}的图形。", "{at}从左到右有哪些图形？")


@dataclass(frozen=True)
class Grounding:
    """Where to look for the answer: `what` is number, field, shapes or caption; `which` labels or ranks from left."""

    kind: str
    keys: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question, the one right answer, and where it stands."""

    text: str
    answer: str
    grounding: Grounding


def ground_shapes(scene: Scene, shapes: list[Shape]) -> Grounding:
    """Return the look at these shapes, which their rank from left names."""
    return Grounding("shapes", tuple(sum(s.x <= shape.x for s in scene.shapes) for shape in shapes))


def choose_wording(rng: Rng, english: tuple[str, ...], chinese: tuple[str, ...], zh: bool) -> str:
    """Pick one wording."""
    wordings = chinese if zh else english
    return wordings[int(rng.integers(len(wordings)))]


def shape_name(shape: Shape, zh: bool) -> str:
    """Return "red circle"."""
    return COLOURS_ZH[shape.colour] + SHAPES_ZH[shape.kind] if zh else f"{COLOURS[shape.colour]} {SHAPES[shape.kind]}"


def ask_number(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask for the number printed."""
    text = choose_wording(rng, ASK_NUMBER, ASK_NUMBER_ZH, zh).format(
        at=(IMAGE_REFERENCES_ZH if zh else IMAGE_REFERENCES)[image_number]
    )
    return Question(text, scene.number or "", Grounding("number"))


def ask_field(rng: Rng, scene: Scene, zh: bool) -> Question:
    """Ask for one field of a page."""
    label = list(scene.fields)[int(rng.integers(len(scene.fields)))]
    text = choose_wording(rng, ASK_FIELD, ASK_FIELD_ZH, zh).format(label=FIELD_LABELS[label])
    return Question(text, scene.fields[label], Grounding("field", (label,)))


def ask_shapes(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask which, what colour, or how many."""
    kinds, colours = [s.kind for s in scene.shapes], [s.colour for s in scene.shapes]
    unique_kind = [s for s in scene.shapes if kinds.count(s.kind) == 1]
    unique_colour = [s for s in scene.shapes if colours.count(s.colour) == 1]
    kind_names, colour_names, reference = (
        (SHAPES_ZH, COLOURS_ZH, IMAGE_REFERENCES_ZH[image_number])
        if zh
        else (SHAPES, COLOURS, IMAGE_REFERENCES[image_number])
    )
    draw = rng.random()
    if draw < 0.35 and unique_kind:
        shape = unique_kind[int(rng.integers(len(unique_kind)))]
        return Question(
            choose_wording(rng, ASK_COLOUR, ASK_COLOUR_ZH, zh).format(kind=kind_names[shape.kind], at=reference),
            colour_names[shape.colour],
            ground_shapes(scene, [shape]),
        )
    if draw < 0.65 and unique_colour:
        shape = unique_colour[int(rng.integers(len(unique_colour)))]
        return Question(
            choose_wording(rng, ASK_WHICH, ASK_WHICH_ZH, zh).format(colour=colour_names[shape.colour], at=reference),
            kind_names[shape.kind],
            ground_shapes(scene, [shape]),
        )
    choice = int(rng.integers(3))
    if choice == 0:
        return count_all(rng, scene, zh, image_number)
    absent = rng.random() < 0.2 or not scene.shapes
    if choice == 1:
        kind = int(rng.integers(len(SHAPES))) if absent else kinds[int(rng.integers(len(kinds)))]
        return count_kind(rng, scene, kind, zh, image_number)
    colour = int(rng.integers(len(COLOURS))) if absent else colours[int(rng.integers(len(colours)))]
    return count_colour(rng, scene, colour, zh, image_number)


def count_all(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask how many shapes there are."""
    text = choose_wording(rng, ASK_COUNT, ASK_COUNT_ZH, zh).format(
        at=(IMAGE_REFERENCES_ZH if zh else IMAGE_REFERENCES)[image_number]
    )
    return count_question(text, scene, scene.shapes)


def count_kind(rng: Rng, scene: Scene, kind: int, zh: bool, image_number: int = 0) -> Question:
    """Ask how many there are of one kind."""
    shape_name, reference = (
        (SHAPES_ZH[kind], IMAGE_REFERENCES_ZH[image_number]) if zh else (SHAPES[kind], IMAGE_REFERENCES[image_number])
    )
    text = choose_wording(rng, ASK_COUNT_OF_KIND, ASK_COUNT_OF_KIND_ZH, zh).format(kind=shape_name, at=reference)
    return count_question(text, scene, [s for s in scene.shapes if s.kind == kind])


def count_colour(rng: Rng, scene: Scene, colour: int, zh: bool, image_number: int = 0) -> Question:
    """Ask how many there are of one colour."""
    colour_name, reference = (
        (COLOURS_ZH[colour], IMAGE_REFERENCES_ZH[image_number])
        if zh
        else (COLOURS[colour], IMAGE_REFERENCES[image_number])
    )
    text = choose_wording(rng, ASK_COUNT_OF_COLOUR, ASK_COUNT_OF_COLOUR_ZH, zh).format(colour=colour_name, at=reference)
    return count_question(text, scene, [s for s in scene.shapes if s.colour == colour])


def count_question(text: str, scene: Scene, shapes: list[Shape]) -> Question:
    """Return the question to which the number of `shapes` is the answer."""
    return Question(text, str(len(shapes)), ground_shapes(scene, shapes))


def ask_count(rng: Rng, scene: Scene, zh: bool) -> Question:
    """Ask how many, mostly of a kind or a colour: each that is there as often as any other, and some that are not."""
    choice, absent = rng.random(), rng.random() < 0.25 or not scene.shapes
    if choice < 0.2:
        return count_all(rng, scene, zh)
    if choice < 0.65:
        kinds = range(len(SHAPES)) if absent else sorted({s.kind for s in scene.shapes})
        return count_kind(rng, scene, kinds[int(rng.integers(len(kinds)))], zh)
    colours = range(len(COLOURS)) if absent else sorted({s.colour for s in scene.shapes})
    return count_colour(rng, scene, colours[int(rng.integers(len(colours)))], zh)


def ask_positions(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask what stands at one side, or for a caption from left to right."""
    reference = (IMAGE_REFERENCES_ZH if zh else IMAGE_REFERENCES)[image_number]
    if rng.random() < 0.3:
        ordered = sorted(scene.shapes, key=lambda s: s.x)
        return Question(
            choose_wording(rng, ASK_CAPTION, ASK_CAPTION_ZH, zh).format(at=reference),
            ("，" if zh else ", ").join(shape_name(s, zh) for s in ordered),
            Grounding("caption", tuple(range(1, len(ordered) + 1))),
        )
    side = list(SIDES)[int(rng.integers(4))]
    extremes = {
        "leftmost": min(scene.shapes, key=lambda s: s.x),
        "rightmost": max(scene.shapes, key=lambda s: s.x),
        "topmost": min(scene.shapes, key=lambda s: s.y),
        "lowest": max(scene.shapes, key=lambda s: s.y),
    }
    text = choose_wording(rng, ASK_SIDE, ASK_SIDE_ZH, zh).format(side=SIDES[side] if zh else side, at=reference)
    return Question(text, shape_name(extremes[side], zh), ground_shapes(scene, [extremes[side]]))


def ask_scene(rng: Rng, scene: Scene, zh: bool, image_number: int = 0) -> Question:
    """Ask anything that can be asked about a drawing."""
    askable = ([ask_number] if scene.number else []) + ([ask_shapes, ask_positions] if scene.shapes else [])
    return askable[int(rng.integers(len(askable)))](rng, scene, zh, image_number)


def every_text() -> list[str]:
    """Return all that is ever asked or answered, for the tokenizer."""
    texts = [*COLOURS, *SHAPES, *(f" {s}" for s in SHAPES), *COLOURS_ZH, *SHAPES_ZH, ", ，"]
    for zh, references, names, colours, side_names in (
        (False, IMAGE_REFERENCES, SHAPES, COLOURS, list(SIDES)),
        (True, IMAGE_REFERENCES_ZH, SHAPES_ZH, COLOURS_ZH, list(SIDES.values())),
    ):
        for key, wordings in globals().items():
            if key.startswith("ASK_") and key.endswith("_ZH") == zh:
                texts += [
                    w.format(at=p, kind=k, colour=c, side=s, label=label)
                    for w in wordings
                    for p in references
                    for k in names
                    for c in colours[:2]
                    for s in side_names
                    for label in FIELD_LABELS[:1]
                ]
        texts += [f" {c}" for c in colours if not zh]
    return (
        texts
        + [f" {label} {label}?" for label in FIELD_LABELS]
        + ["Image-1: Image-2: \nuser\nassistant\nsystem\ntileq"]
    )

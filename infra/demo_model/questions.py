"""Questions about scenes and their answers, in English and Chinese.

group      asks
shapes     which shape, what colour, how many
positions  leftmost, rightmost, topmost, lowest; a caption from left to right
numbers    the number printed
page       one field of a page
"""

from dataclasses import dataclass

from infra.demo_model.class_names import COLOURS, COLOURS_ZH, LABELS, SHAPES, SHAPES_ZH
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, Shape

PLACES = ("", " in the first picture", " in the second picture")  # 0: there is one picture
PLACES_ZH = ("图中", "第一张图中", "第二张图中")
SIDES = {"leftmost": "最左边", "rightmost": "最右边", "topmost": "最上面", "lowest": "最下面"}

ASK_NUMBER = ("What number is printed{at}?", "Which number is printed{at}?", "Read the number{at}.")
ASK_NUMBER_ZH = ("{at}的数字是多少？", "{at}印着什么数字？", "读出{at}的数字。")
ASK_FIELD = ("What is the {label}?", "What does {label} say?", "Read the field {label}.", "How much is {label}?")
ASK_FIELD_ZH = ("{label} 是多少？", "{label} 的数值是多少？", "读出 {label} 这一栏。")
ASK_ALL = ("How many shapes are there{at}?", "How many shapes can you see{at}?", "Count the shapes{at}.")
ASK_ALL_ZH = ("{at}有几个图形？", "{at}一共有多少个图形？")
ASK_KIND = ("How many {kind}s are there{at}?", "Count the {kind}s{at}.")
ASK_KIND_ZH = ("{at}有几个{kind}？", "{at}有多少个{kind}？")
ASK_TINT = ("How many {colour} shapes are there{at}?", "Count the {colour} shapes{at}.")
ASK_TINT_ZH = ("{at}有几个{colour}的图形？", "{at}有多少个{colour}的图形？")
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
class Look:
    """Where to look for the answer: `what` is number, field, shapes or caption; `which` labels or ranks from left."""

    what: str
    which: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ask:
    """A question, the one right answer, and where it stands."""

    text: str
    answer: str
    look: Look


def ranks(scene: Scene, shapes: list[Shape]) -> Look:
    """Return the look at these shapes, which their rank from left names."""
    return Look("shapes", tuple(sum(s.x <= shape.x for s in scene.shapes) for shape in shapes))


def choose(rng: Rng, english: tuple[str, ...], chinese: tuple[str, ...], zh: bool) -> str:
    """Pick one wording."""
    wordings = chinese if zh else english
    return wordings[int(rng.integers(len(wordings)))]


def name(shape: Shape, zh: bool) -> str:
    """Return "red circle"."""
    return COLOURS_ZH[shape.colour] + SHAPES_ZH[shape.kind] if zh else f"{COLOURS[shape.colour]} {SHAPES[shape.kind]}"


def ask_number(rng: Rng, scene: Scene, zh: bool, at: int = 0) -> Ask:
    """Ask for the number printed."""
    text = choose(rng, ASK_NUMBER, ASK_NUMBER_ZH, zh).format(at=(PLACES_ZH if zh else PLACES)[at])
    return Ask(text, scene.number or "", Look("number"))


def ask_field(rng: Rng, scene: Scene, zh: bool) -> Ask:
    """Ask for one field of a page."""
    label = list(scene.fields)[int(rng.integers(len(scene.fields)))]
    text = choose(rng, ASK_FIELD, ASK_FIELD_ZH, zh).format(label=LABELS[label])
    return Ask(text, scene.fields[label], Look("field", (label,)))


def ask_shapes(rng: Rng, scene: Scene, zh: bool, at: int = 0) -> Ask:
    """Ask which, what colour, or how many."""
    kinds, colours = [s.kind for s in scene.shapes], [s.colour for s in scene.shapes]
    unique_kind = [s for s in scene.shapes if kinds.count(s.kind) == 1]
    unique_colour = [s for s in scene.shapes if colours.count(s.colour) == 1]
    names, tints, place = (SHAPES_ZH, COLOURS_ZH, PLACES_ZH[at]) if zh else (SHAPES, COLOURS, PLACES[at])
    draw = rng.random()
    if draw < 0.35 and unique_kind:
        shape = unique_kind[int(rng.integers(len(unique_kind)))]
        return Ask(
            choose(rng, ASK_COLOUR, ASK_COLOUR_ZH, zh).format(kind=names[shape.kind], at=place),
            tints[shape.colour],
            ranks(scene, [shape]),
        )
    if draw < 0.65 and unique_colour:
        shape = unique_colour[int(rng.integers(len(unique_colour)))]
        return Ask(
            choose(rng, ASK_WHICH, ASK_WHICH_ZH, zh).format(colour=tints[shape.colour], at=place),
            names[shape.kind],
            ranks(scene, [shape]),
        )
    sort = int(rng.integers(3))
    if sort == 0:
        return count_all(rng, scene, zh, at)
    absent = rng.random() < 0.2 or not scene.shapes
    if sort == 1:
        kind = int(rng.integers(len(SHAPES))) if absent else kinds[int(rng.integers(len(kinds)))]
        return count_kind(rng, scene, kind, zh, at)
    colour = int(rng.integers(len(COLOURS))) if absent else colours[int(rng.integers(len(colours)))]
    return count_tint(rng, scene, colour, zh, at)


def count_all(rng: Rng, scene: Scene, zh: bool, at: int = 0) -> Ask:
    """Ask how many shapes there are."""
    text = choose(rng, ASK_ALL, ASK_ALL_ZH, zh).format(at=(PLACES_ZH if zh else PLACES)[at])
    return counted(text, scene, scene.shapes)


def count_kind(rng: Rng, scene: Scene, kind: int, zh: bool, at: int = 0) -> Ask:
    """Ask how many there are of one kind."""
    name, place = (SHAPES_ZH[kind], PLACES_ZH[at]) if zh else (SHAPES[kind], PLACES[at])
    text = choose(rng, ASK_KIND, ASK_KIND_ZH, zh).format(kind=name, at=place)
    return counted(text, scene, [s for s in scene.shapes if s.kind == kind])


def count_tint(rng: Rng, scene: Scene, colour: int, zh: bool, at: int = 0) -> Ask:
    """Ask how many there are of one colour."""
    tint, place = (COLOURS_ZH[colour], PLACES_ZH[at]) if zh else (COLOURS[colour], PLACES[at])
    text = choose(rng, ASK_TINT, ASK_TINT_ZH, zh).format(colour=tint, at=place)
    return counted(text, scene, [s for s in scene.shapes if s.colour == colour])


def counted(text: str, scene: Scene, shapes: list[Shape]) -> Ask:
    """Return the question to which the number of `shapes` is the answer."""
    return Ask(text, str(len(shapes)), ranks(scene, shapes))


def ask_count(rng: Rng, scene: Scene, zh: bool) -> Ask:
    """Ask how many, mostly of a kind or a colour: each that is there as often as any other, and some that are not."""
    sort, absent = rng.random(), rng.random() < 0.25 or not scene.shapes
    if sort < 0.2:
        return count_all(rng, scene, zh)
    if sort < 0.65:
        kinds = range(len(SHAPES)) if absent else sorted({s.kind for s in scene.shapes})
        return count_kind(rng, scene, kinds[int(rng.integers(len(kinds)))], zh)
    colours = range(len(COLOURS)) if absent else sorted({s.colour for s in scene.shapes})
    return count_tint(rng, scene, colours[int(rng.integers(len(colours)))], zh)


def ask_positions(rng: Rng, scene: Scene, zh: bool, at: int = 0) -> Ask:
    """Ask what stands at one side, or for a caption from left to right."""
    place = (PLACES_ZH if zh else PLACES)[at]
    if rng.random() < 0.3:
        ordered = sorted(scene.shapes, key=lambda s: s.x)
        return Ask(
            choose(rng, ASK_CAPTION, ASK_CAPTION_ZH, zh).format(at=place),
            ("，" if zh else ", ").join(name(s, zh) for s in ordered),
            Look("caption", tuple(range(1, len(ordered) + 1))),
        )
    side = list(SIDES)[int(rng.integers(4))]
    ends = {
        "leftmost": min(scene.shapes, key=lambda s: s.x),
        "rightmost": max(scene.shapes, key=lambda s: s.x),
        "topmost": min(scene.shapes, key=lambda s: s.y),
        "lowest": max(scene.shapes, key=lambda s: s.y),
    }
    text = choose(rng, ASK_SIDE, ASK_SIDE_ZH, zh).format(side=SIDES[side] if zh else side, at=place)
    return Ask(text, name(ends[side], zh), ranks(scene, [ends[side]]))


def ask_scene(rng: Rng, scene: Scene, zh: bool, at: int = 0) -> Ask:
    """Ask anything that can be asked about a drawing."""
    can = ([ask_number] if scene.number else []) + ([ask_shapes, ask_positions] if scene.shapes else [])
    return can[int(rng.integers(len(can)))](rng, scene, zh, at)


def every_wording() -> list[str]:
    """Return all that is ever asked or answered, for the tokenizer."""
    found = [*COLOURS, *SHAPES, *(f" {s}" for s in SHAPES), *COLOURS_ZH, *SHAPES_ZH, ", ，"]
    for zh, places, names, tints, sides in (
        (False, PLACES, SHAPES, COLOURS, list(SIDES)),
        (True, PLACES_ZH, SHAPES_ZH, COLOURS_ZH, list(SIDES.values())),
    ):
        for key, wordings in globals().items():
            if key.startswith("ASK_") and key.endswith("_ZH") == zh:
                found += [
                    w.format(at=p, kind=k, colour=c, side=s, label=label)
                    for w in wordings
                    for p in places
                    for k in names
                    for c in tints[:2]
                    for s in sides
                    for label in LABELS[:1]
                ]
        found += [f" {c}" for c in tints if not zh]
    return found + [f" {label} {label}?" for label in LABELS] + ["Image-1: Image-2: \nuser\nassistant\nsystem\ntileq"]

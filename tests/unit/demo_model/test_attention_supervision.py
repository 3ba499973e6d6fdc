"""The decoder is told to look where the answer stands, and nowhere else."""

import numpy as np
import pytest

from infra.demo_model import seeds
from infra.demo_model.attention_supervision import looks, truth
from infra.demo_model.class_names import LABELS, SHAPES
from infra.demo_model.dense_targets import targets
from infra.demo_model.questions import Ask, Look, ask_field, ask_number, ask_positions, ask_shapes
from infra.demo_model.scenes import Scene, Shape, number_scene, print_scene, shapes_scene


def places(scene: Scene, look: Look, said: list[str]) -> list[set[tuple[int, int]]]:
    """Rows and columns of tokens for each token of the answer."""
    found = looks(look, [*said, "<end>"], truth(targets(scene)))
    return [{divmod(int(i), 14) for i in row.nonzero()} for row in found]


def token(x: float, y: float) -> tuple[int, int]:
    return int(y // 32), int(x // 32)


@pytest.mark.parametrize("n", range(10))
def test_each_digit_of_a_number_is_read_off_where_it_is_printed(n: int) -> None:
    scene = number_scene(seeds.check(60, n), shapes=2)
    ask = ask_number(seeds.check(61, n), scene, zh=False)
    found = places(scene, ask.look, list(ask.answer))
    for glyph in scene.glyphs:
        left, top, right, bottom = glyph.box
        assert token((left + right) / 2, (top + bottom) / 2) in found[glyph.index]
    assert found[-1] == found[-2]


@pytest.mark.parametrize("n", range(10))
def test_a_field_is_read_off_its_own_line(n: int) -> None:
    scene = print_scene(seeds.check(62, n), 448, 448, 4)
    ask = ask_field(seeds.check(63, n), scene, zh=True)
    (label,) = ask.look.which
    line = [g for g in scene.glyphs if g.label == label and g.index >= 0]
    found = places(scene, ask.look, list(ask.answer))
    assert LABELS[label] in ask.text
    assert len(found) == len(line) + 1
    for glyph in line:
        left, top, right, bottom = glyph.box
        assert token((left + right) / 2, (top + bottom) / 2) in found[glyph.index]
    rows = {token(0, (g.box[1] + g.box[3]) / 2)[0] for g in line}
    assert {row for there in found for row, _ in there} <= rows


def middles(scene: Scene, shapes: list[Shape]) -> set[tuple[int, int]]:
    return {token(s.x, s.y) for s in shapes}


@pytest.mark.parametrize("n", range(20))
def test_a_shape_is_looked_at_wherever_it_is_asked_about(n: int) -> None:
    scene = shapes_scene(seeds.check(64, n))
    ask = ask_shapes(seeds.check(65, n), scene, zh=False)
    found = places(scene, ask.look, [ask.answer])
    asked = [s for s in scene.shapes if SHAPES[s.kind] in ask.text]
    if asked:
        assert middles(scene, asked) <= found[0]
        others = [s for s in scene.shapes if s not in asked]
        assert not middles(scene, others) & found[0]


def test_a_caption_goes_from_shape_to_shape() -> None:
    scene = next(s for n in range(50) if len((s := shapes_scene(seeds.check(66, n))).shapes) == 3)
    ask = Ask("", "red circle, blue star, red square", Look("caption", (1, 2, 3)))
    found = places(scene, ask.look, ["red", " circle", ",", " blue", " star", ",", " red", " square"])
    ordered = [{token(s.x, s.y)} for s in sorted(scene.shapes, key=lambda s: s.x)]
    for i, rank in enumerate((0, 0, 0, 1, 1, 1, 2, 2, 2)):
        assert ordered[rank] <= found[i]
        assert all(not ordered[other] & found[i] for other in {0, 1, 2} - {rank})


def test_nothing_is_looked_at_for_what_is_not_there() -> None:
    scene = shapes_scene(seeds.check(67))
    assert not looks(Look("shapes", ()), ["0", "<end>"], truth(targets(scene))).any()


def test_every_answer_about_positions_has_a_place() -> None:
    for n in range(20):
        scene = shapes_scene(seeds.check(68, n))
        ask = ask_positions(np.random.default_rng(n), scene, zh=True)
        assert looks(ask.look, [ask.answer, "<end>"], truth(targets(scene))).any(-1).all()

"""The decoder is told to look where the answer stands, and nowhere else."""

import numpy as np
import pytest

from infra.demo_model import seeds
from infra.demo_model.attention_supervision import attention_targets, token_classes
from infra.demo_model.class_names import FIELD_LABELS, SHAPES
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.questions import Grounding, Question, ask_field, ask_number, ask_positions, ask_shapes
from infra.demo_model.scenes import Scene, Shape, number_scene, print_scene, shapes_scene


def target_positions(scene: Scene, grounding: Grounding, said: list[str]) -> list[set[tuple[int, int]]]:
    """Rows and columns of tokens for each token of the answer."""
    targets = attention_targets(grounding, [*said, "<end>"], token_classes(dense_targets(scene)))
    return [{divmod(int(i), 14) for i in row.nonzero()} for row in targets]


def token(x: float, y: float) -> tuple[int, int]:
    return int(y // 32), int(x // 32)


@pytest.mark.parametrize("n", range(10))
def test_each_digit_of_a_number_is_read_off_where_it_is_printed(n: int) -> None:
    scene = number_scene(seeds.check(60, n), shapes=2)
    question = ask_number(seeds.check(61, n), scene, zh=False)
    targets = target_positions(scene, question.grounding, list(question.answer))
    for glyph in scene.glyphs:
        left, top, right, bottom = glyph.box
        assert token((left + right) / 2, (top + bottom) / 2) in targets[glyph.index]
    assert targets[-1] == targets[-2]


@pytest.mark.parametrize("n", range(10))
def test_a_field_is_read_off_its_own_line(n: int) -> None:
    scene = print_scene(seeds.check(62, n), 448, 448, 4)
    question = ask_field(seeds.check(63, n), scene, zh=True)
    (label,) = question.grounding.keys
    line = [g for g in scene.glyphs if g.label == label and g.index >= 0]
    targets = target_positions(scene, question.grounding, list(question.answer))
    assert FIELD_LABELS[label] in question.text
    assert len(targets) == len(line) + 1
    for glyph in line:
        left, top, right, bottom = glyph.box
        assert token((left + right) / 2, (top + bottom) / 2) in targets[glyph.index]
    rows = {token(0, (g.box[1] + g.box[3]) / 2)[0] for g in line}
    assert {row for row_targets in targets for row, _ in row_targets} <= rows


def middles(scene: Scene, shapes: list[Shape]) -> set[tuple[int, int]]:
    return {token(s.x, s.y) for s in shapes}


@pytest.mark.parametrize("n", range(20))
def test_a_shape_is_looked_at_wherever_it_is_asked_about(n: int) -> None:
    scene = shapes_scene(seeds.check(64, n))
    question = ask_shapes(seeds.check(65, n), scene, zh=False)
    targets = target_positions(scene, question.grounding, [question.answer])
    named = [s for s in scene.shapes if SHAPES[s.kind] in question.text]
    if named:
        assert middles(scene, named) <= targets[0]
        others = [s for s in scene.shapes if s not in named]
        assert not middles(scene, others) & targets[0]


def test_a_caption_goes_from_shape_to_shape() -> None:
    scene = next(s for n in range(50) if len((s := shapes_scene(seeds.check(66, n))).shapes) == 3)
    question = Question("", "red circle, blue star, red square", Grounding("caption", (1, 2, 3)))
    targets = target_positions(
        scene, question.grounding, ["red", " circle", ",", " blue", " star", ",", " red", " square"]
    )
    ordered = [{token(s.x, s.y)} for s in sorted(scene.shapes, key=lambda s: s.x)]
    for i, rank in enumerate((0, 0, 0, 1, 1, 1, 2, 2, 2)):
        assert ordered[rank] <= targets[i]
        assert all(not ordered[other] & targets[i] for other in {0, 1, 2} - {rank})


def test_nothing_is_looked_at_for_what_is_not_there() -> None:
    scene = shapes_scene(seeds.check(67))
    assert not attention_targets(Grounding("shapes", ()), ["0", "<end>"], token_classes(dense_targets(scene))).any()


def test_every_answer_about_positions_has_a_place() -> None:
    for n in range(20):
        scene = shapes_scene(seeds.check(68, n))
        question = ask_positions(np.random.default_rng(n), scene, zh=True)
        assert (
            attention_targets(question.grounding, [question.answer, "<end>"], token_classes(dense_targets(scene)))
            .any(-1)
            .all()
        )

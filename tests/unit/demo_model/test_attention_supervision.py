"""The attention targets of an answer are the tokens that show it, and no others."""

import numpy as np
import pytest

from infra.demo_model import seeds
from infra.demo_model.attention_supervision import attention_targets, token_classes
from infra.demo_model.class_names import FIELD_LABELS, SHAPES
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.questions import Grounding, ask_field, ask_number, ask_positions, ask_shapes
from infra.demo_model.scenes import Glyph, Scene, Shape, number_scene, print_scene, shapes_scene

END = "<|im_end|>"
Cell = tuple[int, int]


def target_cells(scene: Scene, grounding: Grounding, answer_tokens: list[str]) -> list[set[Cell]]:
    """Row and column of the targets of each token of the answer."""
    targets = attention_targets(grounding, [*answer_tokens, END], token_classes(dense_targets(scene)))
    return [{divmod(int(i), 14) for i in row.nonzero()} for row in targets]


def cell(x: float, y: float) -> Cell:
    return int(y // 32), int(x // 32)


def glyph_cell(glyph: Glyph) -> Cell:
    left, top, right, bottom = glyph.box
    return cell((left + right) / 2, (top + bottom) / 2)


def shape_cells(shapes: list[Shape]) -> set[Cell]:
    return {cell(s.x, s.y) for s in shapes}


@pytest.mark.parametrize("n", range(10))
def test_each_digit_of_a_number_has_the_token_where_it_is_printed(n: int) -> None:
    scene = number_scene(seeds.check(60, n), max_shapes=2)
    question = ask_number(seeds.check(61, n), scene, zh=False)
    targets = target_cells(scene, question.grounding, list(question.answer))
    for glyph in scene.glyphs:
        assert glyph_cell(glyph) in targets[glyph.index]
    assert targets[-1] == targets[-2]


@pytest.mark.parametrize("n", range(10))
def test_the_targets_of_a_field_lie_on_its_own_line(n: int) -> None:
    scene = print_scene(seeds.check(62, n), 448, 448, 4)
    question = ask_field(seeds.check(63, n), scene, zh=True)
    (label,) = question.grounding.keys
    digits = [g for g in scene.glyphs if g.label == label and g.index >= 0]
    targets = target_cells(scene, question.grounding, list(question.answer))
    assert FIELD_LABELS[label] in question.text
    assert len(targets) == len(digits) + 1
    for glyph in digits:
        assert glyph_cell(glyph) in targets[glyph.index]
    assert {row for cells in targets for row, _ in cells} <= {glyph_cell(g)[0] for g in digits}


@pytest.mark.parametrize("n", range(20))
def test_a_question_about_shapes_has_the_tokens_of_those_it_names(n: int) -> None:
    scene = shapes_scene(seeds.check(64, n))
    question = ask_shapes(seeds.check(65, n), scene, zh=False)
    targets = target_cells(scene, question.grounding, [question.answer])
    named = [s for s in scene.shapes if SHAPES[s.kind] in question.text]
    if named:
        assert shape_cells(named) <= targets[0]
        assert not shape_cells([s for s in scene.shapes if s not in named]) & targets[0]


def test_the_targets_of_a_caption_go_from_shape_to_shape() -> None:
    scene = next(s for n in range(50) if len((s := shapes_scene(seeds.check(66, n))).shapes) == 3)
    caption = ["red", " circle", ",", " blue", " star", ",", " red", " square"]
    targets = target_cells(scene, Grounding("caption", (1, 2, 3)), caption)
    ordered = [shape_cells([s]) for s in sorted(scene.shapes, key=lambda s: s.x)]
    for i, rank in enumerate((0, 0, 0, 1, 1, 1, 2, 2, 2)):
        assert ordered[rank] <= targets[i]
        assert all(not ordered[other] & targets[i] for other in {0, 1, 2} - {rank})


def test_a_count_of_absent_shapes_has_no_targets() -> None:
    scene = shapes_scene(seeds.check(67))
    assert not attention_targets(Grounding("shapes", ()), ["0", END], token_classes(dense_targets(scene))).any()


def test_every_answer_about_positions_has_targets() -> None:
    for n in range(20):
        scene = shapes_scene(seeds.check(68, n))
        question = ask_positions(np.random.default_rng(n), scene, zh=True)
        targets = attention_targets(question.grounding, [question.answer, END], token_classes(dense_targets(scene)))
        assert targets.any(-1).all()

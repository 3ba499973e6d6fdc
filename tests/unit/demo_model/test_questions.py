"""Answers follow from the scene that is asked about."""

from collections.abc import Callable

import pytest

from infra.demo_model import seeds
from infra.demo_model.class_names import COLOURS, COLOURS_ZH, SHAPES, SHAPES_ZH
from infra.demo_model.questions import Question, ask_count, ask_positions, ask_shapes
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, shapes_scene


@pytest.mark.parametrize("ask", [ask_shapes, ask_count])
@pytest.mark.parametrize("n", range(40))
def test_answers_about_shapes_follow_from_the_image(n: int, ask: Callable[[Rng, Scene, bool], Question]) -> None:
    rng = seeds.check(5, n)
    scene, zh = shapes_scene(rng), bool(n % 2)
    question = ask(rng, scene, zh)
    kinds, colours = (SHAPES_ZH, COLOURS_ZH) if zh else (SHAPES, COLOURS)
    matching = [
        s
        for s in scene.shapes
        if all(word not in question.text or word == kinds[s.kind] for word in kinds)
        and all(word not in question.text or word == colours[s.colour] for word in colours)
    ]
    if question.answer.isdigit():
        assert int(question.answer) == len(matching)
    else:
        assert [question.answer] == [kinds[s.kind] if question.answer in kinds else colours[s.colour] for s in matching]


def test_a_caption_names_every_shape_from_left_to_right() -> None:
    scene = shapes_scene(seeds.check(6))
    captions = {ask_positions(seeds.check(6, n), scene, False).answer for n in range(40)}
    ordered = sorted(scene.shapes, key=lambda s: s.x)
    assert ", ".join(f"{COLOURS[s.colour]} {SHAPES[s.kind]}" for s in ordered) in captions

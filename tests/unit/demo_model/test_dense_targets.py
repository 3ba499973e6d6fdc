"""Dense targets mark what a scene shows, each thing once."""

import pytest

from infra.demo_model import seeds
from infra.demo_model.class_names import CHARACTERS
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.scenes import number_scene, print_scene


@pytest.mark.parametrize("n", range(12))
def test_every_digit_is_a_target_of_exactly_one_token(n: int) -> None:
    for scene in (number_scene(seeds.check(3, n), 288, 96), print_scene(seeds.check(4, n), 448, 448, 4)):
        targets = dense_targets(scene)
        digits = [g for g in scene.glyphs if g.index >= 0]
        assert int((targets.digits > 0).sum()) == len(digits)
        for glyph in digits:
            x0, y0, x1, y1 = glyph.box
            marked = targets.digits[int((y0 + y1) / 2 // 32), int((x0 + x1) / 2 // 32), glyph.index]
            assert CHARACTERS[marked - 1] == glyph.char

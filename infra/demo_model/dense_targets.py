"""What each patch and each token of a picture should know: the dense targets that teach the vision tower.

A patch is 16x16 px and answers for its two halves, each 8 px wide (no glyph is narrower than that, so each half
belongs to one glyph at most). A token is 32x32 px, the four patches that pixel shuffle joins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.demo_model.class_names import CHARACTERS, COLOURS, LABELS, MAX_DIGITS, MAX_SHAPES, SHAPES
from infra.demo_model.scenes import Glyph, Scene, Shape

PATCH, TOKEN = 16, 32
Array = NDArray[np.int64]

TOKEN_ATTRIBUTES = {  # name: how many values beside "nothing here"
    "label": 1 + len(LABELS),
    "length": MAX_DIGITS,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "left": MAX_SHAPES,
    "right": MAX_SHAPES,
    "top": MAX_SHAPES,
    "bottom": MAX_SHAPES,
    "total": MAX_SHAPES,
    "alike": MAX_SHAPES,
    "same_colour": MAX_SHAPES,
}
PATCH_ATTRIBUTES = {
    "glyph_left": len(CHARACTERS),
    "glyph_right": len(CHARACTERS),
    "patch_shape": len(SHAPES),
    "patch_colour": len(COLOURS),
    "index_left": MAX_DIGITS,
    "index_right": MAX_DIGITS,
    "patch_label": 1 + len(LABELS),
    "patch_length": MAX_DIGITS,
}


@dataclass
class Targets:
    """Class numbers, 0 for "nothing here"."""

    patches: Array  # (rows, columns, attributes)
    digits: Array  # (token rows, token columns, index in the number)
    tokens: Array  # (token rows, token columns, attributes)

    def of_tokens(self) -> Array:
        """Return digits and attributes of all tokens side by side, (tokens, digits and attributes)."""
        return np.concatenate([self.digits, self.tokens], -1).reshape(-1, self.digits.shape[-1] + self.tokens.shape[-1])


def targets(scene: Scene) -> Targets:
    """Return the dense targets of `scene`, whose sides are multiples of a token."""
    height, width = scene.picture.shape[:2]
    found = Targets(
        np.zeros((height // PATCH, width // PATCH, len(PATCH_ATTRIBUTES)), np.int64),
        np.zeros((height // TOKEN, width // TOKEN, MAX_DIGITS), np.int64),
        np.zeros((height // TOKEN, width // TOKEN, len(TOKEN_ATTRIBUTES)), np.int64),
    )
    for glyph in scene.glyphs:
        mark_glyph(found, glyph)
    for shape in scene.shapes:
        mark_shape(found, shape, scene.shapes)
    return found


def mark_glyph(found: Targets, glyph: Glyph) -> None:
    """Write one glyph into the half patches it covers and into the token of its centre."""
    x0, y0, x1, y1 = glyph.box
    code = CHARACTERS.index(glyph.char) + 1
    rows, columns = found.patches.shape[:2]
    for row in range(max(0, int(y0 // PATCH)), min(rows, int(y1 // PATCH) + 1)):
        if min(y1, (row + 1) * PATCH) - max(y0, row * PATCH) < 6:
            continue
        for half in range(max(0, int(x0 // 8)), min(2 * columns, int(x1 // 8) + 1)):
            if x0 <= half * 8 + 4 < x1:
                found.patches[row, half // 2, half % 2] = code
                found.patches[row, half // 2, 4 + half % 2] = glyph.index + 1
                found.patches[row, half // 2, 6:] = (glyph.label + 2, glyph.length)
    row, column = int((y0 + y1) / 2 // TOKEN), int((x0 + x1) / 2 // TOKEN)
    found.tokens[row, column, 0] = glyph.label + 2
    if glyph.index >= 0:
        found.digits[row, column, glyph.index] = code
        found.tokens[row, column, 1] = glyph.length


def mark_shape(found: Targets, shape: Shape, shapes: list[Shape]) -> None:
    """Write one shape, its ranks and its counts into the patches and tokens near its centre."""
    for grid, side in ((found.patches, PATCH), (found.tokens, TOKEN)):
        ys, xs = np.ogrid[: grid.shape[0], : grid.shape[1]]
        near = np.hypot(xs * side + side / 2 - shape.x, ys * side + side / 2 - shape.y) < max(
            0.4 * shape.size, side * 0.72
        )
        if side == PATCH:
            grid[near, 2:4] = (shape.kind + 1, shape.colour + 1)
        else:
            grid[near, 2:] = (
                shape.kind + 1,
                shape.colour + 1,
                sum(s.x <= shape.x for s in shapes),
                sum(s.x >= shape.x for s in shapes),
                sum(s.y <= shape.y for s in shapes),
                sum(s.y >= shape.y for s in shapes),
                len(shapes),
                sum(s.kind == shape.kind for s in shapes),
                sum(s.colour == shape.colour for s in shapes),
            )

"""What each patch and each token of a picture should know: the dense targets that teach the vision tower.

A patch is 16x16 px and answers for its two halves, each 8 px wide (no glyph is narrower than that, so each half
belongs to one glyph at most). A token is 32x32 px, the four patches that pixel shuffle joins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.demo_model.class_names import CHARACTERS, COLOURS, FIELD_LABELS, MAX_DIGITS, MAX_SHAPES, SHAPES
from infra.demo_model.scenes import Glyph, Scene, Shape

PATCH_PX, TOKEN_PX = 16, 32
ClassArray = NDArray[np.int64]

TOKEN_ATTRIBUTES = {  # name: how many values beside "nothing here"
    "label": 1 + len(FIELD_LABELS),
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
    "patch_label": 1 + len(FIELD_LABELS),
    "patch_length": MAX_DIGITS,
}


@dataclass
class DenseTargets:
    """Class numbers, 0 for "nothing here"."""

    patches: ClassArray  # (rows, columns, attributes)
    digits: ClassArray  # (token rows, token columns, index in the number)
    tokens: ClassArray  # (token rows, token columns, attributes)

    def token_classes(self) -> ClassArray:
        """Return digits and attributes of all tokens side by side, (tokens, digits and attributes)."""
        return np.concatenate([self.digits, self.tokens], -1).reshape(-1, self.digits.shape[-1] + self.tokens.shape[-1])


def dense_targets(scene: Scene) -> DenseTargets:
    """Return the dense targets of `scene`, whose sides are multiples of a token."""
    height, width = scene.image.shape[:2]
    targets = DenseTargets(
        np.zeros((height // PATCH_PX, width // PATCH_PX, len(PATCH_ATTRIBUTES)), np.int64),
        np.zeros((height // TOKEN_PX, width // TOKEN_PX, MAX_DIGITS), np.int64),
        np.zeros((height // TOKEN_PX, width // TOKEN_PX, len(TOKEN_ATTRIBUTES)), np.int64),
    )
    for glyph in scene.glyphs:
        mark_glyph(targets, glyph)
    for shape in scene.shapes:
        mark_shape(targets, shape, scene.shapes)
    return targets


def mark_glyph(targets: DenseTargets, glyph: Glyph) -> None:
    """Write one glyph into the half patches it covers and into the token of its centre."""
    x0, y0, x1, y1 = glyph.box
    code = CHARACTERS.index(glyph.char) + 1
    rows, columns = targets.patches.shape[:2]
    for row in range(max(0, int(y0 // PATCH_PX)), min(rows, int(y1 // PATCH_PX) + 1)):
        if min(y1, (row + 1) * PATCH_PX) - max(y0, row * PATCH_PX) < 6:
            continue
        for half in range(max(0, int(x0 // 8)), min(2 * columns, int(x1 // 8) + 1)):
            if x0 <= half * 8 + 4 < x1:
                targets.patches[row, half // 2, half % 2] = code
                targets.patches[row, half // 2, 4 + half % 2] = glyph.index + 1
                targets.patches[row, half // 2, 6:] = (glyph.label + 2, glyph.length)
    row, column = int((y0 + y1) / 2 // TOKEN_PX), int((x0 + x1) / 2 // TOKEN_PX)
    targets.tokens[row, column, 0] = glyph.label + 2
    if glyph.index >= 0:
        targets.digits[row, column, glyph.index] = code
        targets.tokens[row, column, 1] = glyph.length


def mark_shape(targets: DenseTargets, shape: Shape, shapes: list[Shape]) -> None:
    """Write one shape, its ranks and its counts into the patches and tokens near its centre."""
    for grid, side in ((targets.patches, PATCH_PX), (targets.tokens, TOKEN_PX)):
        ys, xs = np.ogrid[: grid.shape[0], : grid.shape[1]]
        near = np.hypot(xs * side + side / 2 - shape.x, ys * side + side / 2 - shape.y) < max(
            0.4 * shape.size, side * 0.72
        )
        if side == PATCH_PX:
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

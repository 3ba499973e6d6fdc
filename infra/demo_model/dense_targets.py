"""Dense targets: the classes of each patch and each token of an image, from which the vision tower learns.

A patch is 16x16 px and has one class for each of its halves, 8 px wide: no glyph is narrower, so a half shows one
glyph at most. A token is 32x32 px, the four patches that pixel shuffle joins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.demo_model.class_names import CHARACTERS, COLOURS, FIELD_LABELS, MAX_DIGITS, MAX_SHAPES, SHAPES
from infra.demo_model.scenes import Glyph, Scene, Shape

PATCH_PX, HALF_PATCH_PX, TOKEN_PX = 16, 8, 32
MIN_GLYPH_OVERLAP_PX = 6  # rows of a glyph that a patch must show to get its class
BACKGROUND = 0  # class of a place where the attribute has no value
NO_LABEL_CLASS = 1  # class of a glyph without a field; those of FIELD_LABELS follow
ClassArray = NDArray[np.int64]

TOKEN_ATTRIBUTES = {  # name: classes besides BACKGROUND
    "label": 1 + len(FIELD_LABELS),
    "length": MAX_DIGITS,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "rank_left": MAX_SHAPES,  # 1: the leftmost shape
    "rank_right": MAX_SHAPES,
    "rank_top": MAX_SHAPES,
    "rank_bottom": MAX_SHAPES,
    "count_all": MAX_SHAPES,
    "count_kind": MAX_SHAPES,  # shapes of the same kind
    "count_colour": MAX_SHAPES,
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
    """Classes of all attributes of one image; BACKGROUND where an attribute has no value."""

    patches: ClassArray  #: (rows, columns, attributes)
    digits: ClassArray  #: (token rows, token columns, index in the number)
    tokens: ClassArray  #: (token rows, token columns, attributes)

    def token_classes(self) -> ClassArray:
        """Return the digits and attributes of all tokens, (tokens, digits + attributes)."""
        return np.concatenate([self.digits, self.tokens], -1).reshape(-1, self.digits.shape[-1] + self.tokens.shape[-1])


def dense_targets(scene: Scene) -> DenseTargets:
    """Return the dense targets of `scene`, whose sides are multiples of 32 px."""
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
    """Write the classes of one glyph to the half patches it covers and to the token of its centre."""
    x0, y0, x1, y1 = glyph.box
    character, label = CHARACTERS.index(glyph.char) + 1, glyph.label + 1 + NO_LABEL_CLASS
    rows, columns = targets.patches.shape[:2]
    for row in range(max(0, int(y0 // PATCH_PX)), min(rows, int(y1 // PATCH_PX) + 1)):
        if min(y1, (row + 1) * PATCH_PX) - max(y0, row * PATCH_PX) < MIN_GLYPH_OVERLAP_PX:
            continue
        for half in range(max(0, int(x0 // HALF_PATCH_PX)), min(2 * columns, int(x1 // HALF_PATCH_PX) + 1)):
            if x0 <= half * HALF_PATCH_PX + HALF_PATCH_PX // 2 < x1:
                targets.patches[row, half // 2, half % 2] = character
                targets.patches[row, half // 2, 4 + half % 2] = glyph.index + 1
                targets.patches[row, half // 2, 6:] = (label, glyph.length)
    row, column = int((y0 + y1) / 2 // TOKEN_PX), int((x0 + x1) / 2 // TOKEN_PX)
    targets.tokens[row, column, 0] = label
    if glyph.index >= 0:
        targets.digits[row, column, glyph.index] = character
        targets.tokens[row, column, 1] = glyph.length


def mark_shape(targets: DenseTargets, shape: Shape, shapes: list[Shape]) -> None:
    """Write the classes of one of `shapes` to the patches and tokens near its centre."""
    is_near = near_centre(targets.patches, PATCH_PX, shape)
    targets.patches[is_near, 2:4] = (shape.kind + 1, shape.colour + 1)
    is_near = near_centre(targets.tokens, TOKEN_PX, shape)
    targets.tokens[is_near, 2:] = (
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


def near_centre(grid: ClassArray, cell_px: int, shape: Shape) -> NDArray[np.bool_]:
    """Return which cells of `grid` (rows, columns, attributes) lie near the centre of `shape`: (rows, columns)."""
    ys, xs = np.ogrid[: grid.shape[0], : grid.shape[1]]
    distance = np.hypot(xs * cell_px + cell_px / 2 - shape.x, ys * cell_px + cell_px / 2 - shape.y)
    is_near: NDArray[np.bool_] = distance < max(0.4 * shape.size, cell_px * 0.72)
    return is_near

"""Draw the images of `tileq demo` and write its three questions: `python -m infra.demo_model.bundled_images`.

One is a drawing with a number, one a receipt whose fields are legible only if the page is cut into tiles.
"""

import json
from pathlib import Path

from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.class_names import COLOURS, FIELD_LABELS, RECEIPT_LABELS, SHAPES
from infra.demo_model.scenes import TILE_PX, Scene, drawing_scene, page_scene

FOLDER = Path(__file__).parents[2] / "services" / "cli" / "images"
TOTAL = FIELD_LABELS.index("TOTAL")
MAX_RECEIPT_BYTES = 60_000  # a page with a textured background takes ten times as much
MAX_DRAWS = 10_000


def draw_shapes_image() -> Scene:
    """Return the first drawing of four different shapes in four colours, and a number of four digits."""
    for n in range(MAX_DRAWS):
        scene = drawing_scene(seeds.bundle(0, n), TILE_PX, TILE_PX, 4, number=True)
        kinds, colours = {s.kind for s in scene.shapes}, {s.colour for s in scene.shapes}
        if len(kinds) == len(colours) == len(SHAPES) and len(scene.number or "") == 4:
            return scene
    raise LookupError(f"none of {MAX_DRAWS} drawings has four different shapes and a number of four digits")


def draw_receipt_image(path: Path) -> Scene:
    """Write to `path` and return the first small receipt of five or more fields, its total of four or more digits."""
    for n in range(MAX_DRAWS):
        scene = page_scene(seeds.bundle(1, n))
        labels = {FIELD_LABELS[k] for k in scene.fields}
        if len(labels) >= 5 and labels <= set(RECEIPT_LABELS) and len(scene.fields.get(TOTAL, "")) >= 4:
            Image.fromarray(scene.image).save(path, optimize=True)
            if path.stat().st_size < MAX_RECEIPT_BYTES:
                return scene
    raise LookupError(f"none of {MAX_DRAWS} pages is a receipt of five fields below {MAX_RECEIPT_BYTES} bytes")


def main() -> None:
    """Write shapes.png, receipt.png and questions.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawing = draw_shapes_image()
    Image.fromarray(drawing.image).save(FOLDER / "shapes.png", optimize=True)
    receipt = draw_receipt_image(FOLDER / "receipt.png")
    leftmost = min(drawing.shapes, key=lambda s: s.x)
    questions = [
        {
            "image": "shapes.png",
            "question": "Which shape is leftmost?",
            "answer": f"{COLOURS[leftmost.colour]} {SHAPES[leftmost.kind]}",
        },
        {"image": "shapes.png", "question": "图中的数字是多少？", "answer": drawing.number},
        {"image": "receipt.png", "question": "What is the TOTAL?", "answer": receipt.fields[TOTAL], "tiled": True},
    ]
    (FOLDER / "questions.json").write_text(json.dumps(questions, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

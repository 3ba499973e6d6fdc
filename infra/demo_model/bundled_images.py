"""Draw the pictures shipped with the command, with three questions: `python -m infra.demo_model.bundled_images`.

A drawing with a number, and a receipt whose fields are legible only if the page is cut into tiles.
"""

import json
from pathlib import Path

from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.class_names import COLOURS, FIELD_LABELS, RECEIPT_FIELDS, SHAPES
from infra.demo_model.scenes import Scene, drawing_scene, page_scene

FOLDER = Path(__file__).parents[2] / "services" / "cli" / "images"
TOTAL = FIELD_LABELS.index("TOTAL")
MAX_RECEIPT_BYTES = 60_000  # bytes: a page on a textured ground is ten times as much


def shapes_image_scene() -> Scene:
    """Return the first drawing of four different shapes in four colours, and a number of four digits."""
    for n in range(10_000):
        scene = drawing_scene(seeds.bundle(0, n), 448, 448, 4, number=True)
        kinds, colours = {s.kind for s in scene.shapes}, {s.colour for s in scene.shapes}
        if len(kinds) == len(colours) == len(SHAPES) and len(scene.number or "") == 4:
            return scene
    raise LookupError("no such drawing")


def receipt_image_scene(path: Path) -> Scene:
    """Return the first plain receipt of at least five fields with a total of at least four digits."""
    for n in range(10_000):
        scene = page_scene(seeds.bundle(1, n))
        labels = {FIELD_LABELS[k] for k in scene.fields}
        if len(labels) >= 5 and labels <= set(RECEIPT_FIELDS) and len(scene.fields.get(TOTAL, "")) >= 4:
            Image.fromarray(scene.image).save(path, optimize=True)
            if path.stat().st_size < MAX_RECEIPT_BYTES:
                return scene
    raise LookupError("no such page")


def main() -> None:
    """Write shapes.png, receipt.png and questions.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = shapes_image_scene()
    Image.fromarray(drawn.image).save(FOLDER / "shapes.png", optimize=True)
    receipt = receipt_image_scene(FOLDER / "receipt.png")
    leftmost = min(drawn.shapes, key=lambda s: s.x)
    questions = [
        {
            "image": "shapes.png",
            "question": "Which shape is leftmost?",
            "answer": f"{COLOURS[leftmost.colour]} {SHAPES[leftmost.kind]}",
        },
        {"image": "shapes.png", "question": "图中的数字是多少？", "answer": drawn.number},
        {"image": "receipt.png", "question": "What is the TOTAL?", "answer": receipt.fields[TOTAL], "tiled": True},
    ]
    (FOLDER / "questions.json").write_text(json.dumps(questions, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

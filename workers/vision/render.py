"""Draws what the model will see of a picture, or prints the prompt it will read.

python -m workers.vision.render IMAGE --tiles 12 -o out.png        the grid, and the thumbnail beside it
python -m workers.vision.render IMAGE … --prompt "What is it?"     the exact prompt, image blocks folded
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from shared.conversation import Message
from shared.settings import Settings, read_settings
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.engine.base import Tiles
from workers.vision.engine.factory import find_checkpoint
from workers.vision.prompts import PromptError, PromptFormat, build
from workers.vision.sandbox import Sandbox, Tiled, UndecodableImage

GAP = 8  # pixels between tiles
PAPER = (255, 255, 255)


def main() -> int:
    """Render as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m workers.vision.render", description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path)
    parser.add_argument("--tiles", type=int, default=12, choices=range(1, 41), metavar="1..40")
    parser.add_argument("--no-thumbnail", dest="thumbnail", action="store_false")
    parser.add_argument("-o", "--output", type=Path, help="PNG to write")
    parser.add_argument("--prompt", help="print the prompt of this question instead")
    parser.add_argument("--model", default="", help="whose prompt; empty: TILEQ_MODEL, else the demo checkpoint")
    chosen = parser.parse_args()
    if chosen.prompt is None and not (chosen.output and len(chosen.images) == 1):
        parser.error("give one IMAGE and -o out.png, or --prompt TEXT")
    settings = read_settings()
    try:
        if chosen.prompt is not None:
            settings = settings.model_copy(update={"model": chosen.model or settings.model})
            checkpoint = find_checkpoint(settings, lambda line: print(line, file=sys.stderr))  # noqa: T201
            model = checkpoint.model
            tiles = min(chosen.tiles, model.tiles[1])
            pictures = _tile(chosen.images, tiles, chosen.thumbnail and model.thumbnail, settings)
            print(_prompt(chosen.prompt, pictures, checkpoint.prompt_format))  # noqa: T201 - a command's output
        else:
            (seen,) = _tile(chosen.images, chosen.tiles, chosen.thumbnail, settings)
            chosen.output.write_bytes(draw(seen.tiles, seen.grid))
    except (CheckpointError, PromptError, UndecodableImage, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def draw(tiles: Tiles, grid: tuple[int, int]) -> bytes:
    """A PNG of the tiles where they lie, the thumbnail to their right."""
    columns, rows = grid
    side = tiles.shape[1]
    step = side + GAP
    thumbnail = len(tiles) > columns * rows
    size = (columns * step - GAP + (step + GAP if thumbnail else 0), rows * step - GAP)
    sheet = Image.new("RGB", size, PAPER)
    for place, tile in enumerate(tiles[: columns * rows]):
        sheet.paste(Image.fromarray(np.asarray(tile)), (place % columns * step, place // columns * step))
    if thumbnail:
        sheet.paste(Image.fromarray(np.asarray(tiles[-1])), (columns * step + GAP, 0))
    written = io.BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()


def _tile(images: list[Path], tiles: int, thumbnail: bool, settings: Settings) -> list[Tiled]:
    if not images:
        return []
    sandbox = Sandbox(
        1,
        settings.decode_timeout,
        settings.decode_memory,
        settings.image_mode,
        max_pixels=settings.max_image_pixels,
    )
    with sandbox:
        return [sandbox.tile(path.read_bytes(), tiles, thumbnail) for path in images]


def _prompt(question: str, seen: list[Tiled], model: PromptFormat) -> str:
    tiles = [len(picture.tiles) for picture in seen]
    prompt = build([Message(role="user", content=question)], tiles, model)
    return f"{prompt.text}\n\n{len(prompt.ids)} tokens, {prompt.image_tokens} of them for {sum(tiles)} tiles"


if __name__ == "__main__":
    sys.exit(main())

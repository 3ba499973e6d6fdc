"""Draws what the model will see of an image, or prints the prompt that it will read.

python -m workers.vision.tools.render IMAGE --tiles 12 -o out.png        the grid, and the thumbnail beside it
python -m workers.vision.tools.render IMAGE … --prompt "What is it?"     the exact prompt, image blocks folded
"""

import argparse
import sys
from pathlib import Path

from shared.conversation import ConversationError, Message
from shared.environment import read_settings
from shared.settings.base import SettingsError
from shared.settings.roles import Settings
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.engine.factory import find_checkpoint
from workers.vision.images.decode import DecodeError
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool, DecoderUnavailable, TiledImage
from workers.vision.images.preview import draw_tiles
from workers.vision.prompts import PromptFormat, build


def main() -> int:
    """Render as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m workers.vision.tools.render", description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path)
    parser.add_argument("--tiles", type=int, default=12, choices=range(1, 41), metavar="1..40")
    parser.add_argument("--no-thumbnail", dest="thumbnail", action="store_false")
    parser.add_argument("-o", "--output", type=Path, help="PNG to write")
    parser.add_argument("--prompt", help="print the prompt of this question instead")
    parser.add_argument("--model", default="", help="whose prompt; empty: TILEQ_MODEL, else the demo checkpoint")
    chosen = parser.parse_args()
    if chosen.prompt is None and not (chosen.output and len(chosen.images) == 1):
        parser.error("give one IMAGE and -o out.png, or --prompt TEXT")
    try:
        settings = read_settings()
        if chosen.prompt is not None:
            settings = settings.model_copy(update={"model": chosen.model or settings.model})
            checkpoint = find_checkpoint(settings, lambda line: print(line, file=sys.stderr))  # noqa: T201
            model = checkpoint.model
            tiles = min(chosen.tiles, model.tiles[1])
            seen = _tile(chosen.images, tiles, chosen.thumbnail and model.thumbnail, settings)
            print(_prompt(chosen.prompt, seen, checkpoint.prompt_format))  # noqa: T201 - a command's output
        else:
            (only,) = _tile(chosen.images, chosen.tiles, chosen.thumbnail, settings)
            chosen.output.write_bytes(draw_tiles(only.tiles, only.grid))
    except (SettingsError, CheckpointError, ConversationError, DecodeError, DecoderUnavailable, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _tile(images: list[Path], tiles: int, thumbnail: bool, settings: Settings) -> list[TiledImage]:
    if not images:
        return []
    with DecoderPool(1, DecoderOptions.of(settings)) as decoders:
        return [decoders.tile(path.read_bytes(), tiles, thumbnail) for path in images]


def _prompt(question: str, seen: list[TiledImage], model: PromptFormat) -> str:
    tiles = [len(image.tiles) for image in seen]
    prompt = build([Message(role="user", content=question)], tiles, model)
    return f"{prompt.text}\n\n{len(prompt.ids)} tokens, {prompt.image_tokens} of them for {sum(tiles)} tiles"


if __name__ == "__main__":
    sys.exit(main())

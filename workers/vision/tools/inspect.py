"""Prints what was found in a checkpoint's files, and what is unusual about it. Loads no weights.

python -m workers.vision.tools.inspect MODEL       a folder, org/name@revision or s3://bucket/prefix
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

from rich.console import Console

from shared.environment import read_settings
from shared.settings.base import SettingsError
from workers.vision.checkpoint.checkpoint import Checkpoint
from workers.vision.checkpoint.checksums import compute_checksums
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.engine.factory import find_checkpoint


def main() -> int:
    """Inspect the model of the command line."""
    parser = argparse.ArgumentParser(prog="python -m workers.vision.tools.inspect", description=__doc__)
    parser.add_argument("model", nargs="?", default="", help="empty: the demo checkpoint")
    parser.add_argument("--manifest", action="store_true", help="also hash every file, for TILEQ_MODEL_SHA256")
    chosen = parser.parse_args()
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    try:
        settings = read_settings().model_copy(update={"model": chosen.model})
        checkpoint = find_checkpoint(settings, lambda line: errors.print(line, highlight=False))
    except (CheckpointError, SettingsError) as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    lines = list(facts(checkpoint))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print(f"{name:{width}}  {value}", markup=False, highlight=False)
    for remark in unusual(checkpoint):
        console.print(f"! {remark}", markup=False, highlight=False)
    if chosen.manifest:
        checksums = compute_checksums(checkpoint.folder)
        console.print(f"{checksums.text}{checksums.digest}  (all of it)", markup=False, highlight=False)
    return 0


def facts(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield names and values of what the files say."""
    config, model = checkpoint.config, checkpoint.model
    vision, decoder = config.vision, config.decoder
    yield "model", f"{model.id} ({model.title})"
    yield "folder", str(checkpoint.folder)
    yield "parameters", f"{model.parameters:,}"
    yield "files", f"{len(checkpoint.files.files)} safetensors, {checkpoint.files.size / 1e6:,.1f} MB"
    types = Counter(entry.dtype for entry in checkpoint.files.entries.values())
    yield "dtype", ", ".join(f"{dtype} ({count} weights)" for dtype, count in types.most_common())
    yield "memory at bf16", f"{model.memory / 2**30:.2f} GiB"
    yield (
        "vision tower",
        f"{vision.layers} layers, {vision.hidden} wide, {vision.heads} heads, {vision.norm}"
        f"{', q/k norm' if vision.qk_norm else ''}, patches of {vision.patch} in tiles of {vision.image}",
    )
    yield (
        "decoder",
        f"{decoder.kind}: {decoder.layers} layers, {decoder.hidden} wide, "
        f"{decoder.heads} heads on {decoder.kv_heads} kv heads, RoPE theta {decoder.rope_theta:g}",
    )
    yield "vocabulary", f"{decoder.vocab:,} (tokenizer: {checkpoint.tokenizer.size:,})"
    yield "context", f"{config.context:,} tokens"
    yield "tokens per tile", str(config.tokens_per_tile)
    low, high = model.tiles
    yield "tiles", f"{low} to {high} an image{', and a thumbnail' if model.thumbnail else ''}" if high > 1 else "one"
    yield "template", config.template
    yield "system message", checkpoint.system.text or "none"
    yield "system message from", checkpoint.system.origin
    yield "stop token", checkpoint.prompt_format.template.stop


def unusual(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what differs from the other checkpoints of the family."""
    config = checkpoint.config
    if config.transposed:
        yield "ps_version v1: the image tokens of a tile lie column by column"
    if config.select_layer != -1:
        idle = config.vision.layers - config.used_layers
        yield f"select_layer {config.select_layer}: the last {idle} vision layers are idle and not loaded"
    if config.decoder.rope_factor != 1:
        yield f"positions are scaled linearly by {config.decoder.rope_factor:g}"
    if not checkpoint.system.certain:
        yield "no file says which release this is: set TILEQ_SYSTEM_MESSAGE if it was trained with another one"
    if checkpoint.tokenizer.size != config.decoder.vocab:
        yield f"the vocabulary is padded by {config.decoder.vocab - checkpoint.tokenizer.size}"
    if config.tokens_per_tile != 256:
        yield f"a tile is {config.tokens_per_tile} tokens; in all released models it is 256"
    code = sorted(path.name for path in checkpoint.folder.glob("*.py"))
    if code:
        yield f"{', '.join(code)}: code, never run"


if __name__ == "__main__":
    sys.exit(main())

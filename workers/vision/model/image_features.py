"""Tiles to the embeddings that take the places of their image tokens in the prompt."""

from collections.abc import Iterator

import torch
from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.model.hf_model import StockModel
from workers.vision.model.pixels import normalise

MAX_BATCH_TILES = 8  # tiles at once through the tower: enough to fill a device, little beside the weights


def features(model: StockModel, config: Config, pixels: Tensor) -> Tensor:
    """(T, 3, side, side) to (T, tokens of a tile, hidden), in the order that the decoder was trained on."""
    found: Tensor = model.model.get_image_features(pixels, return_dict=True).pooler_output
    if config.transposed:
        # ps_version v1 leaves the grid of tokens column by column; the stock model always writes rows.
        side = config.token_grid
        found = found.view(len(found), side, side, -1).transpose(1, 2).flatten(1, 2)
    return found


def feature_batches(model: StockModel, config: Config, tiles: Tensor) -> Iterator[Tensor]:
    """Yield the features of a few tiles at a time, so that a cancelled request leaves between them."""
    device = model.model.vision_tower.embeddings.cls_token.device
    for start in range(0, len(tiles), MAX_BATCH_TILES):
        yield features(model, config, normalise(tiles[start : start + MAX_BATCH_TILES].to(device)))


def embed(model: StockModel, ids: Tensor, image_token: int, found: list[Tensor]) -> Tensor:
    """(1, N) ids to (1, N, hidden), with `found` at the image tokens, in order."""
    embeddings: Tensor = model.get_input_embeddings()(ids)
    if not found:
        return embeddings
    places = ids == image_token
    flat = torch.cat([batch.flatten(0, 1) for batch in found]).to(embeddings.device, embeddings.dtype)
    if int(places.sum()) != len(flat):
        raise ValueError(f"the prompt has {int(places.sum())} image tokens for {len(flat)} features")
    embeddings[places] = flat
    return embeddings

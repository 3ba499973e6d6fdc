"""Tiles to the embeddings that take the places of their image tokens in the prompt."""

from collections.abc import Iterator

import torch
from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.model.hf_model import StockModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the card's code
MAX_BATCH_TILES = 8  # tiles at once through the tower: enough to fill a device, little beside the weights


def normalise(tiles: Tensor) -> Tensor:
    """(T, side, side, 3) uint8 to (T, 3, side, side) float32, bit for bit ToTensor and Normalize of torchvision.

    On the device of `tiles`: folding the constants or doing it in bf16 would change the last bits.
    """
    mean, std = (torch.tensor(values, device=tiles.device).view(3, 1, 1) for values in (MEAN, STD))
    return tiles.permute(0, 3, 1, 2).float().div(255).sub_(mean).div_(std)


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

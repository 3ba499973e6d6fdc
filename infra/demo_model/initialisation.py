"""Weight initialisation: a comparable position encoding, convolution-like attention heads, whitened patch embeddings.

A vision transformer needs much data to learn that a glyph continues in the next patch. Here that is built in:

- 32 channels of the residual stream hold the patch's row and column as sines and cosines. The dot product of two
  encodings is 8 for equal rows (or columns) and 0 for distances from 1 to 15.
- Each head of the first two layers attends to one patch at a fixed offset of one or two, as a convolution does
  (Cordonnier et al. 2020, arXiv:1911.03584; d'Ascoli et al. 2021, arXiv:2103.10697).
- The patch embedding is a whitening of training patches (as in Jordan 2024, arXiv:2404.00498).
"""

from math import pi

import torch
from torch import Tensor, nn

from infra.demo_model.model import ChatModel, VisionAttention

AXIS_DIMS = 16  # channels for each of row and column: cosines and sines of 8 frequencies
ANGULAR_FREQUENCIES = (torch.arange(8) + 0.5) * pi / 8  # radians per patch
#: (rows, columns) from a patch to the one that each of the four heads attends to, in the first and the second layer.
HEAD_OFFSETS = (((0, -1), (0, 1), (-1, 0), (1, 0)), ((0, -2), (0, 2), (0, -1), (0, 1)))
QK_NORM_GAIN = 1.25  # sharpness of that attention


def encode_positions(positions: Tensor) -> Tensor:
    """Return the cosines and sines of `positions` (n,), in patches: (n, 16)."""
    angles = positions[:, None] * ANGULAR_FREQUENCIES
    return torch.cat([angles.cos(), angles.sin()], -1)


def offset_rotation(offset: int) -> Tensor:
    """Return the rotation R (16, 16) with R @ encode_positions(p) = encode_positions(p + offset)."""
    cos, sin = torch.diag((offset * ANGULAR_FREQUENCIES).cos()), torch.diag((offset * ANGULAR_FREQUENCIES).sin())
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


@torch.no_grad()
def initialise(model: ChatModel, patches: Tensor) -> None:
    """Initialise `model` in place; `patches` (n, 3*16*16) are normalised patches of training images."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.language_model.model.tok_embeddings.weight, std=0.5)
    embeddings, grid = model.vision_model.embeddings, model.config.grid
    axis = encode_positions(torch.arange(grid).float())
    table = torch.cat([axis[:, None].expand(grid, grid, AXIS_DIMS), axis[None].expand(grid, grid, AXIS_DIMS)], -1)
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:, : 2 * AXIS_DIMS] = table.reshape(-1, 2 * AXIS_DIMS)
    nn.init.normal_(embeddings.class_embedding, std=0.3)
    whiten(embeddings.patch_embedding, patches, skip_channels=2 * AXIS_DIMS)
    for layer in model.vision_model.encoder.blocks():
        layer.attn.proj.weight.mul_(0.5)
        layer.mlp.fc2.weight.mul_(0.5)
        layer.attn.proj.weight[: 2 * AXIS_DIMS].zero_()  # no block overwrites the positions
        layer.mlp.fc2.weight[: 2 * AXIS_DIMS].zero_()
    for layer, offsets in zip(model.vision_model.encoder.blocks(), HEAD_OFFSETS, strict=False):
        set_head_offsets(layer.attn, offsets)


def set_head_offsets(attention: VisionAttention, offsets: tuple[tuple[int, int], ...]) -> None:
    """Make each head attend to the patch at its (row, column) offset."""
    width = attention.qkv.in_features
    dim = width // attention.heads
    q, k = attention.qkv.weight[:width], attention.qkv.weight[width : 2 * width]
    q.mul_(0.1)
    k.mul_(0.1)
    for head, (row, column) in enumerate(offsets):
        start = head * dim
        q[start : start + AXIS_DIMS, :AXIS_DIMS] = offset_rotation(row)
        q[start + AXIS_DIMS : start + 2 * AXIS_DIMS, AXIS_DIMS : 2 * AXIS_DIMS] = offset_rotation(column)
        k[start : start + 2 * AXIS_DIMS, : 2 * AXIS_DIMS] = torch.eye(2 * AXIS_DIMS)
    attention.q_norm.weight.fill_(QK_NORM_GAIN)
    attention.k_norm.weight.fill_(QK_NORM_GAIN)


def whiten(embedding: nn.Conv2d, patches: Tensor, skip_channels: int) -> None:
    """Set the embedding to randomly rotated principal components of `patches`, scaled towards equal variance.

    The first `skip_channels` output channels are set to zero: they are the positions'.
    """
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    channels = embedding.out_channels - skip_channels
    values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
    components = vectors.T / (values[:, None] + 0.02 * values.mean()).sqrt()
    rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
    embedding.weight.zero_()
    embedding.bias.zero_()  # type: ignore[union-attr]
    embedding.weight[skip_channels:] = (rotation @ components * 0.7).view(channels, *embedding.weight.shape[1:])
    embedding.bias[skip_channels:] = -(embedding.weight[skip_channels:].flatten(1) @ mean)  # type: ignore[index]

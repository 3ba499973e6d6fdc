"""How the vision tower begins: with positions it can compare and eyes for the neighbouring patch.

A transformer learns from much data that a glyph half in this patch goes on in the next one. Here it begins knowing:
32 dimensions of the stream hold where a patch is, as sines and cosines whose products are 1 for the same row (or
column) and exactly 0 for any other less than 16 away, and the heads of the first two layers look one or two patches
away, as a convolution would. The patch embedding begins as a whitening of real patches.
"""

from math import pi

import torch
from torch import Tensor, nn

from infra.demo_model.model import ChatModel, VisionAttention

AXIS_DIMS = 16  # dimensions for each of x and y: 8 frequencies, sine and cosine
ANGULAR_FREQUENCIES = (torch.arange(8) + 0.5) * pi / 8
HEAD_OFFSETS = (((0, -1), (0, 1), (-1, 0), (1, 0)), ((0, -2), (0, 2), (0, -1), (0, 1)))  # (row, column) for each head
QK_NORM_GAIN = 1.25


def positional_encoding(positions: Tensor) -> Tensor:
    """Return cosines and sines of each place, (n, 16)."""
    angles = positions[:, None] * ANGULAR_FREQUENCIES
    return torch.cat([angles.cos(), angles.sin()], -1)


def phase_rotation(offset: int) -> Tensor:
    """Return the 16x16 rotation R with R @ waves(p) = waves(p + by)."""
    cos, sin = torch.diag((offset * ANGULAR_FREQUENCIES).cos()), torch.diag((offset * ANGULAR_FREQUENCIES).sin())
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


@torch.no_grad()
def initialise(model: ChatModel, patches: Tensor) -> None:
    """Initialise `model` in place; `patches` (n, 3*16*16) are normalised patches of training pictures."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.language_model.model.tok_embeddings.weight, std=0.5)
    embeddings, grid = model.vision_model.embeddings, model.config.grid
    line = positional_encoding(torch.arange(grid).float())
    table = torch.cat([line[:, None].expand(grid, grid, AXIS_DIMS), line[None].expand(grid, grid, AXIS_DIMS)], -1)
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:, : 2 * AXIS_DIMS] = table.reshape(-1, 2 * AXIS_DIMS)
    nn.init.normal_(embeddings.class_embedding, std=0.3)
    whiten(embeddings.patch_embedding, patches, skip_channels=2 * AXIS_DIMS)
    for layer in model.vision_model.encoder.blocks():
        layer.attn.proj.weight.mul_(0.5)
        layer.mlp.fc2.weight.mul_(0.5)
        layer.attn.proj.weight[: 2 * AXIS_DIMS].zero_()
        layer.mlp.fc2.weight[: 2 * AXIS_DIMS].zero_()
    for layer, offsets in zip(model.vision_model.encoder.blocks(), HEAD_OFFSETS, strict=False):
        set_attention_offsets(layer.attn, offsets)


def set_attention_offsets(attention: VisionAttention, offsets: tuple[tuple[int, int], ...]) -> None:
    """Make each head attend to the patch that lies at its offset."""
    width = attention.qkv.in_features
    dim = width // attention.heads
    q, k = attention.qkv.weight[:width], attention.qkv.weight[width : 2 * width]
    q.mul_(0.1)
    k.mul_(0.1)
    for head, (row, column) in enumerate(offsets):
        at = head * dim
        q[at : at + AXIS_DIMS, :AXIS_DIMS] = phase_rotation(row)
        q[at + AXIS_DIMS : at + 2 * AXIS_DIMS, AXIS_DIMS : 2 * AXIS_DIMS] = phase_rotation(column)
        k[at : at + 2 * AXIS_DIMS, : 2 * AXIS_DIMS] = torch.eye(2 * AXIS_DIMS)
    attention.q_norm.weight.fill_(QK_NORM_GAIN)
    attention.k_norm.weight.fill_(QK_NORM_GAIN)


def whiten(embedding: nn.Conv2d, patches: Tensor, skip_channels: int) -> None:
    """Make the rows of the patch embedding the principal directions of `patches`, damped towards equal variance."""
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    channels = embedding.out_channels - skip_channels
    values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
    rows = vectors.T / (values[:, None] + 0.02 * values.mean()).sqrt()
    mixing = torch.linalg.qr(torch.randn(channels, channels))[0]
    embedding.weight.zero_()
    embedding.bias.zero_()  # type: ignore[union-attr]
    embedding.weight[skip_channels:] = (mixing @ rows * 0.7).view(channels, *embedding.weight.shape[1:])
    embedding.bias[skip_channels:] = -(embedding.weight[skip_channels:].flatten(1) @ mean)  # type: ignore[index]

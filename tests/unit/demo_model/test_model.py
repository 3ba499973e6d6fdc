"""The model in training computes what InternVL-Chat computes."""

import numpy as np
import torch

from infra.demo_model import seeds
from infra.demo_model.dense_batches import BatchSpec, draw_batch
from infra.demo_model.model import ChatModel, dot_product_attention, normalise, pixel_shuffle


def test_pixel_shuffle_joins_the_four_neighbours_of_a_token() -> None:
    patches = torch.arange(4 * 6).float().view(1, 24, 1)
    assert pixel_shuffle(patches, 4, 6)[0, 1].tolist() == [2, 3, 8, 9]


def test_the_fused_kernel_attends_as_attention_written_out_does() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 3, 5, 8), torch.randn(2, 2, 1, 5, 8), torch.randn(2, 2, 1, 5, 8)
    bias = torch.zeros(2, 1, 1, 5, 5).masked_fill(torch.rand(2, 1, 1, 5, 5) < 0.4, -1e4)
    written_out = ((q * 8**-0.5) @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    torch.testing.assert_close(dot_product_attention(q, k, v, bias), written_out)


def test_keeping_every_token_encodes_the_whole_tile(model: ChatModel) -> None:
    pixels = normalise(torch.from_numpy(draw_batch(BatchSpec("tile", 14, 14, 1), seeds.check(51)).images))
    with torch.no_grad():
        whole, kept = model.encode_images(pixels)[1], model.encode_images(pixels, None, torch.arange(196)[None])[1]
    torch.testing.assert_close(whole, kept, rtol=1e-3, atol=1e-4)


def test_a_dropped_token_does_not_influence_the_kept_ones(model: ChatModel) -> None:
    batch = draw_batch(BatchSpec("tile", 14, 14, 3, kept_tokens=120), seeds.check(50))
    assert batch.kept_tokens is not None
    pixels, kept_tokens = normalise(torch.from_numpy(batch.images)), torch.from_numpy(batch.kept_tokens)
    painted = pixels.clone()
    for i, kept in enumerate(batch.kept_tokens):
        for token in np.setdiff1d(np.arange(196), kept):
            row, column = divmod(int(token), 14)
            painted[i, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 9
    with torch.no_grad():
        (patches, tokens), of_painted = (model.encode_images(x, None, kept_tokens) for x in (pixels, painted))
    assert patches.shape[1] == 480
    assert tokens.shape[1] == 120
    torch.testing.assert_close((patches, tokens), of_painted)

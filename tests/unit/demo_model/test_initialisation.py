"""The initial position encodings tell positions apart."""

import torch

from infra.demo_model.initialisation import encode_positions, offset_rotation


def test_positions_match_at_their_offset_and_nowhere_near() -> None:
    axis = encode_positions(torch.arange(28).float())
    scores = axis @ (offset_rotation(-2) @ axis.T)
    assert all(abs(float(scores[i + 2 - 4, i]) - 8) < 1e-4 for i in range(2, 28))
    assert float((scores[:, 10] - 8 * (torch.arange(28) == 8)).abs()[:24].max()) < 1e-3

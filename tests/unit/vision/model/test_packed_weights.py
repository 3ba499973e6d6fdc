"""Packed bytes are what `kernels/linear.c` documents, however many chunks a weight is packed in."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from workers.vision.model import packed_weights
from workers.vision.model.cpu_library import Format
from workers.vision.model.packed_weights import GROUP, NF4, PANEL, pack, to_panels

SHAPE = 4 * PANEL - 5, 2 * GROUP


@pytest.fixture(params=["one chunk", "many chunks"], autouse=True)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many chunks":
        monkeypatch.setattr(packed_weights, "CHUNK_WEIGHTS", 1)


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def weight(request: pytest.FixtureRequest) -> Tensor:
    drawn = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(request.param)
    drawn[3] = 0
    return drawn


def together(codes: Tensor, inputs: int) -> Tensor:
    """(panels, 32, in) with `inputs` of each output side by side: (panels, in / inputs, 32, inputs)."""
    return codes.view(len(codes), PANEL, -1, inputs).transpose(1, 2)


def test_4_bit_codes_are_those_of_the_nearest_values_two_in_a_byte(weight: Tensor) -> None:
    groups = to_panels(weight, gated=False).float().view(-1, PANEL, SHAPE[1] // GROUP, GROUP)
    expected_scales = groups.abs().amax(dim=3).clamp(min=1e-12).bfloat16()
    edges = torch.tensor([(low + high) / 2 for low, high in pairwise(NF4)])
    nearest = torch.bucketize(groups / expected_scales.float().unsqueeze(3), edges).flatten(2)
    low, high = nearest.view(len(nearest), PANEL, -1, 2, 4).unbind(dim=3)
    codes, scales = pack(weight, Format.INT4, gated=False)
    assert torch.equal(codes, together((low | high << 4).flatten(2), 4).to(torch.uint8))
    assert torch.equal(scales, expected_scales.transpose(1, 2))


def test_int8_codes_are_the_rounded_shares_of_the_largest_weight_with_128_added(weight: Tensor) -> None:
    panels = to_panels(weight, gated=False).float()
    expected_scales = panels.abs().amax(dim=2).clamp(min=1e-12) / 127
    codes, scales = pack(weight, Format.INT8, gated=False)
    assert torch.equal(codes, together((panels / expected_scales.unsqueeze(2)).round() + 128, 4).to(torch.uint8))
    assert torch.equal(scales, expected_scales)


def test_bfloat16_weights_are_only_put_in_order(weight: Tensor) -> None:
    codes, _ = pack(weight, Format.BF16, gated=False)
    assert torch.equal(codes, together(to_panels(weight, gated=False).bfloat16(), 2))


def test_packing_leaves_the_number_of_threads_as_it_was(weight: Tensor) -> None:
    before = torch.get_num_threads()
    pack(weight, Format.INT4, gated=False)
    assert torch.get_num_threads() == before

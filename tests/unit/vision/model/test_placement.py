"""A model larger than one device is split, or refused with the numbers."""

import pytest
import torch

from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.model.placement import DeviceBudget, Placement, plan

GIB = 1 << 30
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def test_what_fits_stays_together() -> None:
    placement = plan([GIB] * 4, [DeviceBudget(FIRST, 8 * GIB), DeviceBudget(SECOND, 8 * GIB)])
    assert set(placement.blocks) == {FIRST}
    assert not placement.split


def test_layers_go_on_in_order_on_the_next_device() -> None:
    placement = plan([2 * GIB, GIB, GIB, GIB, GIB], [DeviceBudget(FIRST, 4 * GIB), DeviceBudget(SECOND, 4 * GIB)])
    assert placement.blocks == (FIRST, FIRST, SECOND, SECOND, SECOND)
    assert placement.split


def test_what_fits_nowhere_is_refused_with_the_numbers() -> None:
    with pytest.raises(CheckpointError, match=r"takes 6.0 GiB; free is 3.0 GiB on cuda:0, 3.0 GiB on cuda:1"):
        plan([2 * GIB, 2 * GIB, 2 * GIB], [DeviceBudget(FIRST, 3 * GIB), DeviceBudget(SECOND, 3 * GIB)])


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("vision.layers.7.attention_scale", 0),
        ("projector.linear_1.weight", 0),
        ("decoder.embedding.weight", 0),
        ("decoder.layers.1.mlp.up.weight", 2),
        ("decoder.norm.weight", 3),
        ("decoder.output.weight", 3),
    ],
)
def test_every_parameter_has_its_block(name: str, block: int) -> None:
    devices = tuple(torch.device("cuda", index) for index in range(4))
    assert Placement(devices)(name) == devices[block]

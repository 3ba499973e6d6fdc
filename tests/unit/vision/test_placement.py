"""A model larger than one device is split, or refused with the numbers."""

import pytest
import torch

from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.checkpoint.placement import Placement, Room, plan

GIB = 1 << 30
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def test_what_fits_stays_together() -> None:
    placement = plan([GIB] * 4, [Room(FIRST, 8 * GIB), Room(SECOND, 8 * GIB)])
    assert set(placement.blocks) == {FIRST}
    assert not placement.split


def test_layers_go_on_in_order_on_the_next_device() -> None:
    placement = plan([2 * GIB, GIB, GIB, GIB, GIB], [Room(FIRST, 4 * GIB), Room(SECOND, 4 * GIB)])
    assert placement.blocks == (FIRST, FIRST, SECOND, SECOND, SECOND)
    assert placement.split


def test_what_fits_nowhere_is_refused_with_the_numbers() -> None:
    with pytest.raises(CheckpointError, match=r"takes 6.0 GiB; free is 3.0 GiB on cuda:0, 3.0 GiB on cuda:1"):
        plan([2 * GIB, 2 * GIB, 2 * GIB], [Room(FIRST, 3 * GIB), Room(SECOND, 3 * GIB)])


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.vision_tower.encoder.layer.7.lambda_1", 0),
        ("model.multi_modal_projector.linear_1.weight", 0),
        ("model.language_model.embed_tokens.weight", 0),
        ("model.language_model.layers.1.mlp.up_proj.weight", 2),
        ("model.language_model.norm.weight", 3),
        ("lm_head.weight", 3),
    ],
)
def test_every_parameter_has_its_block(name: str, block: int) -> None:
    devices = tuple(torch.device("cuda", index) for index in range(4))
    assert Placement(devices)(name) == devices[block]

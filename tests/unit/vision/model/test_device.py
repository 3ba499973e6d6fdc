"""The number type is the one that the device computes well and that the activations fit into."""

import pytest
import torch

from workers.vision.model.device import choose_dtype, seconds_per_operation
from workers.vision.model.placement import weight_dtype


@pytest.fixture
def gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", unsupported)


@pytest.mark.usefixtures("gpu_without_bfloat16")
@pytest.mark.parametrize(("fits", "chosen"), [(True, torch.float32), (False, torch.float16)])
def test_without_bfloat16_float16_is_for_what_does_not_fit_in_float32(fits: bool, chosen: torch.dtype) -> None:
    assert choose_dtype("auto", "cuda", lambda dtype: fits and dtype is torch.float32) is chosen


@pytest.mark.usefixtures("gpu_without_bfloat16")
def test_a_number_type_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("float16", "cuda") is torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert choose_dtype("auto", "cuda") is torch.bfloat16


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("vision.layers.0.attention.q.weight", torch.float32),
        ("projector.linear_1.bias", torch.float32),
        ("decoder.embedding.weight", torch.float16),
        ("decoder.layers.0.mlp.up.weight", torch.float16),
    ],
)
def test_tower_and_projector_of_a_float16_model_are_float32(name: str, dtype: torch.dtype) -> None:
    assert weight_dtype(name, torch.float16) is dtype
    assert weight_dtype(name, torch.bfloat16) is torch.bfloat16


def test_the_speed_of_this_machine_is_a_plausible_one() -> None:
    assert 1e-14 < seconds_per_operation(torch.float32, torch.device("cpu")) < 1e-6

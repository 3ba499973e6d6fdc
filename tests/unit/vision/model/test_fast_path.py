"""A path is used only if it is there, right and not slower; else plain torch takes its place, and it is said why."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model import fast_path, gpu_kernels
from workers.vision.model.attention import AttendRows, attend_padded
from workers.vision.model.fast_path import State, choose
from workers.vision.model.packed_batch import DecodeTables

CONFIG = DecoderConfig("llama", 32, 1, 8, 2, 64, 100, 1e-5, False, 1e4, 1.0, 4096)
INPUT = torch.linspace(-1, 1, 64)
Way = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def scripted_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called slow takes ten times as long; the rest takes the same."""
    monkeypatch.setattr(fast_path, "_seconds", lambda way, *_: 10.0 if way is slow or way is slow_attention else 1.0)


def twin(x: Tensor) -> Tensor:
    return x * 2


DOUBLING: Way = twin


def right(x: Tensor) -> Tensor:
    return x + x


def slow(x: Tensor) -> Tensor:
    return x + x


def slow_attention(queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
    return attend_padded(queries, keys, values, tables)


def right_attention(queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
    return attend_padded(queries, keys, values, tables)


def broken(x: Tensor) -> Tensor:
    raise ValueError("no code for this device")


@pytest.mark.parametrize(
    ("fast", "state"),
    [
        (right, "used"),
        (slow, "slower"),
        (broken, "failed"),
        (lambda x: x * 2.001, "wrong"),
        (lambda x: x * torch.nan, "wrong"),
        (lambda x: (x * 2)[:1], "wrong"),
        (lambda x: (x * 2).half(), "wrong"),
    ],
)
def test_what_is_wrong_or_slow_or_fails_falls_back(fast: Way, state: State) -> None:
    said: list[str] = []
    used, path = choose("doubling", lambda: fast, DOUBLING, (INPUT,), said.append)
    assert path.state == state
    assert used is (fast if state == "used" else twin)
    assert said == [str(path)]
    assert said[0].startswith(f"doubling: {state}, ")


def test_what_can_not_be_loaded_falls_back() -> None:
    def load() -> Way:
        raise ImportError("No module named 'triton'")

    used, path = choose("doubling", load, DOUBLING, (INPUT,), lambda _: None)
    assert used is twin
    assert path.state == "missing"
    assert "No module named 'triton'" in path.detail


@pytest.mark.parametrize(
    ("fast", "state"),
    [(lambda queries, *_: queries, "wrong"), (slow_attention, "slower"), (right_attention, "used")],
)
def test_the_attention_of_a_gpu_is_compared_before_it_is_used(
    fast: AttendRows, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "_load_attention", lambda: fast)
    kernels = gpu_kernels.gpu_kernels(CONFIG, torch.float32, torch.device("cpu"), lambda _: None)
    assert {path.name: path.state for path in kernels.paths} == {
        "paged attention": state,
        "attention of prompts": "used",
        "norm": "used",
    }
    assert kernels.attend_rows is (fast if state == "used" else attend_padded)

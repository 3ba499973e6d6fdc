"""A path is used only if it is there, right and not slower; else plain torch takes its place, and it is said why."""

from collections.abc import Callable, Sequence

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
Way = Callable[..., Tensor]


class Clock:
    """Time passes in calls only: of the ways by name, and of a neighbour that lengthens some of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: dict[str, int] = {}
        self.seconds = {"slow": 10.0, "slow_attention": 10.0}
        self.delay: Callable[[str, int], float] = lambda _name, _call: 0.0

    def perf_counter(self) -> float:
        return self.now

    def took(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.now += self.seconds.get(name, 1.0) + self.delay(name, self.calls[name])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, seconds = Clock(), fast_path._seconds

    def scripted(way: Way, arguments: Sequence[object], device: torch.device) -> float:
        def timed(*arguments: object) -> Tensor:
            made.took(getattr(way, "__name__", "?"))
            return way(*arguments)

        return seconds(timed, arguments, device)

    monkeypatch.setattr(fast_path, "time", made)
    monkeypatch.setattr(fast_path, "_seconds", scripted)
    return made


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


@pytest.mark.parametrize(
    ("disturbed", "fast", "state"), [("twin", right, "used"), ("right", right, "used"), ("slow", slow, "slower")]
)
def test_a_neighbour_that_lengthens_nearly_all_calls_of_one_side_decides_nothing(
    clock: Clock, disturbed: str, fast: Way, state: State
) -> None:
    """It is there nine calls out of ten, and in all of the first rounds."""
    clock.delay = lambda name, call: 100.0 if name == disturbed and call % 10 else 0.0
    _, path = choose("doubling", lambda: fast, DOUBLING, (INPUT,), lambda _: None)
    assert path.state == state
    assert clock.calls[disturbed] > fast_path.ROUNDS or disturbed == "twin"


def test_a_path_that_is_clearly_faster_is_not_timed_for_long(clock: Clock) -> None:
    clock.seconds["twin"] = 50.0
    _, path = choose("doubling", lambda: right, DOUBLING, (INPUT,), lambda _: None)
    assert path.speedup == 50.0
    assert clock.calls == {"twin": 2, "right": 2}


def test_short_calls_are_timed_one_by_one_so_that_one_of_them_is_undisturbed(clock: Clock) -> None:
    clock.seconds.update(twin=1e-4, right=1e-4)
    clock.delay = lambda name, call: 0.0 if name == "twin" or call % 7 == 0 else 1e-3
    _, path = choose("doubling", lambda: right, DOUBLING, (INPUT,), lambda _: None)
    assert path.speedup == pytest.approx(1)
    assert max(clock.calls.values()) <= fast_path.ROUNDS * fast_path.CALLS

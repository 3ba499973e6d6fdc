"""What the stock model's engine does beyond what every engine does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from shared.models import DEMO_MODEL_ID
from tests.integration.vision.engine.test_engines import answer, asked
from tests.random_checkpoint import write_random
from tests.waiting import eventually
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.engine.errors import Cancelled, NonFiniteLogits
from workers.vision.engine.factory import ServedModel
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.model.hf_model import StockModel
from workers.vision.model.loader import LoadOptions, load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(tmp_path_factory.mktemp("model") / "tileq-demo"), DEMO_MODEL_ID)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> StockModel:
    return load(checkpoint, LoadOptions("cpu", "float32"), lambda _: None)


@pytest.fixture(scope="module")
def served(checkpoint: Checkpoint, model: StockModel) -> Iterator[ServedModel]:
    engine = TransformersEngine(Loaded(model, checkpoint.config, checkpoint.tokenizer))
    yield ServedModel(engine, checkpoint.model, checkpoint.config.vision.image, checkpoint.prompt_format)
    engine.close()


def test_a_watchdog_can_see_every_layer_of_a_prefill(served: ServedModel, model: StockModel) -> None:
    began: list[float | None] = []
    allowed: list[float] = []

    def look(*_: object) -> None:
        stats = served.engine.stats()
        began.append(stats.busy_since)
        allowed.append(stats.step_allowance)

    layers = model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    answer(served, max_new_tokens=1)
    for hook in hooks:
        hook.remove()
    assert len(began) == len(layers) > 1
    assert None not in began
    assert len(set(began)) == len(layers)  # every layer is a step of its own
    assert min(allowed) > 0
    assert served.engine.stats().busy_since is None


def test_a_cancelled_request_leaves_in_the_middle_of_its_prefill(served: ServedModel, model: StockModel) -> None:
    computed: list[int] = []

    def cancel(*_: object) -> None:
        computed.append(0)
        served.engine.cancel("job")

    layers = model.model.language_model.layers
    hooks = [
        layers[0].register_forward_pre_hook(cancel),
        layers[-1].register_forward_pre_hook(lambda *_: computed.append(1)),
    ]
    with pytest.raises(Cancelled):
        list(served.engine.submit(asked(served)))
    eventually(lambda: served.engine.stats().running == 0)
    for hook in hooks:
        hook.remove()
    assert computed == [0]


@contextmanager
def broken_output(model: StockModel, value: float) -> Iterator[None]:
    """Have the model compute `value` as the logit of token 5."""

    def spoil(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        output[..., 5] = value
        return output

    hook = model.lm_head.register_forward_hook(spoil)
    yield
    hook.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"num_beams": 2}, {"num_beams": 2, "temperature": 1.0}])
def test_logits_that_are_not_finite_fail_their_request_only(
    served: ServedModel, model: StockModel, value: float, sampling: dict[str, Any]
) -> None:
    with broken_output(model, value), pytest.raises(NonFiniteLogits, match="NaN or infinity in float32"):
        answer(served, **sampling)
    assert answer(served, max_new_tokens=2).completion_tokens == 2


def test_a_projector_that_overflows_float16_is_computed_in_float32(checkpoint: Checkpoint) -> None:
    model = load(checkpoint, LoadOptions("cpu", "float16"), lambda _: None)
    projector = model.model.multi_modal_projector
    scale = 2.0**22  # a power of two: the output is what it was, and what lies between is past 65504
    projector.linear_1.weight.mul_(scale)
    projector.linear_1.bias.mul_(scale)
    projector.linear_2.weight.div_(scale)
    engine = TransformersEngine(Loaded(model, checkpoint.config, checkpoint.tokenizer))
    served = ServedModel(engine, checkpoint.model, checkpoint.config.vision.image, checkpoint.prompt_format)
    assert answer(served, max_new_tokens=4).completion_tokens > 0
    engine.close()


@pytest.mark.parametrize("sampling", [{"repetition_penalty": 1e-42}, {"repetition_penalty": 1e-42, "temperature": 1.0}])
def test_a_penalty_that_overflows_is_named(served: ServedModel, sampling: dict[str, Any]) -> None:
    with pytest.raises(NonFiniteLogits, match="repetition_penalty of 1e-42"):
        answer(served, **sampling)


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-38, 1e-4])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_temperature_too_small_to_divide_by_is_greedy(
    served: ServedModel, temperature: float, num_beams: int
) -> None:
    assert answer(served, temperature=temperature, num_beams=num_beams).text == answer(served, num_beams=num_beams).text


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_seed_belongs_to_its_request_and_leaves_the_global_generator_alone(
    served: ServedModel, num_beams: int
) -> None:
    before = torch.get_rng_state()
    first, second = (answer(served, temperature=1.5, seed=1, num_beams=num_beams).text for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)

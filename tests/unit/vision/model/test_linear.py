"""Every way of holding a weight computes what the plain one does, as near as its format allows."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.compiler import compile_library
from workers.vision.model.cpu_kernels import cpu_kernels, measure
from workers.vision.model.decoder import PLAIN_KERNELS
from workers.vision.model.linear import GROUP, NF4, CpuLinear, Int4Linear, Int8Linear, PlainLinear
from workers.vision.model.small_batch import FLAGS, SOURCE, KernelsUnavailable, SmallBatchKernels

SPAN = 256  #: inputs that share a scale, of int8 weights
CONFIG = DecoderConfig("llama", 32, 1, 8, 2, 64, 100, 1e-5, False, 1e4, 1.0, 4096)
ROWS = (1, 2, 3, 4, 5, 8, 16, 33)


@pytest.fixture(scope="module")
def kernels() -> SmallBatchKernels:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    return SmallBatchKernels()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor, share: float = 0.02) -> bool:
    return float((found.float() - expected.float()).abs().max()) <= share * float(expected.float().abs().max())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(8, 32), (64, 128), (99, 256)])
def test_the_kernel_computes_what_torch_does(
    kernels: SmallBatchKernels, rows: int, biased: bool, shape: tuple[int, int]
) -> None:
    weight, x = drawn(*shape).bfloat16(), drawn(rows, shape[1], seed=1).bfloat16()
    bias = drawn(shape[0], seed=2).bfloat16() if biased else None
    expected = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    assert near(CpuLinear(weight, bias, kernels, 64)(x), expected)
    assert near(CpuLinear(weight, bias, kernels, 0)(x), expected)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_quantised_kernels_compute_what_their_expanded_weight_does(
    kernels: SmallBatchKernels, kind: type[Int8Linear] | type[Int4Linear], rows: int, biased: bool
) -> None:
    weight, x = drawn(64, 256).bfloat16(), drawn(rows, 256, seed=1).bfloat16()
    bias = drawn(64, seed=2).bfloat16() if biased else None
    fast, twin = kind(weight, bias, kernels, 64), kind(weight, bias, None)
    expanded = twin.expanded(torch.float32)
    expected = functional.linear(x.float(), expanded, None if bias is None else bias.float())
    assert near(fast(x), expected)
    assert near(twin(x), expected)
    assert torch.equal(fast.expanded(torch.bfloat16), twin.expanded(torch.bfloat16))


@pytest.mark.parametrize(("kind", "share"), [(Int8Linear, 0.006), (Int4Linear, 0.11)])
def test_quantising_keeps_a_normal_weight_within_its_steps(
    kind: type[Int8Linear] | type[Int4Linear], share: float
) -> None:
    weight = drawn(64, 512)
    error = (kind(weight, None, None).expanded(torch.float32) - weight).square().mean().sqrt()
    assert 0 < float(error / weight.square().mean().sqrt()) < share * 1.5


def test_the_4_bit_values_come_back_as_they_are() -> None:
    weight = torch.tensor(NF4).repeat(4, 8)
    assert torch.allclose(Int4Linear(weight, None, None).expanded(torch.float32), weight, atol=0.5 / 127)


def test_the_portable_loops_compute_the_same(
    kernels: SmallBatchKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors without AVX512-BF16 take other lines of the source."""
    flags = [*(flag for flag in FLAGS if not flag.startswith("-march")), "-mno-avx512f"]
    subprocess.run(["cc", *flags, str(SOURCE), "-o", str(tmp_path / "k.so")], check=True)
    monkeypatch.setattr("workers.vision.model.small_batch.FLAGS", tuple(flags))
    portable = SmallBatchKernels()
    weight, x = drawn(64, 256).bfloat16(), drawn(5, 256, seed=1).bfloat16()
    for kind in (CpuLinear, Int8Linear, Int4Linear):
        assert near(kind(weight, None, portable, 64)(x), kind(weight, None, kernels, 64)(x))


def test_without_a_compiler_torch_computes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    with pytest.raises(KernelsUnavailable, match="/no/such/compiler"):
        SmallBatchKernels()
    said: list[str] = []
    made = cpu_kernels(CONFIG, torch.bfloat16, None, said.append).linear(drawn(8, 32).bfloat16(), None)
    assert isinstance(made, PlainLinear)
    assert "/no/such/compiler" in said[0]
    quantised = cpu_kernels(CONFIG, torch.bfloat16, "int8", said.append).linear(drawn(8, 32).bfloat16(), None)
    assert quantised(drawn(1, 32).bfloat16()).shape == (1, 8)


def test_without_a_compiler_what_the_image_has_compiled_is_used(
    kernels: SmallBatchKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_library(SOURCE, FLAGS, tmp_path / "small_batch.so")
    monkeypatch.setattr("workers.vision.model.small_batch.SOURCE", tmp_path / "small_batch.c")
    monkeypatch.setenv("CC", "/no/such/compiler")
    monkeypatch.setattr("workers.vision.model.small_batch.PREBUILT", (("small_batch.so", {"of-no-processor"}),))
    with pytest.raises(KernelsUnavailable):
        SmallBatchKernels()
    monkeypatch.setattr("workers.vision.model.small_batch.PREBUILT", (("small_batch.so", set[str]()),))
    weight, x = drawn(64, 256).bfloat16(), drawn(5, 256, seed=1).bfloat16()
    assert torch.equal(CpuLinear(weight, None, SmallBatchKernels(), 64)(x), CpuLinear(weight, None, kernels, 64)(x))


def blockwise(x: Tensor, span: int) -> Tensor:
    """What the kernels make of their inputs: int8 with a scale for each `span`, at the end for each 64, as float32."""
    whole = x.shape[1] // span * span
    return torch.cat((_rounded(x[:, :whole], span), _rounded(x[:, whole:], GROUP)), dim=1)


def _rounded(x: Tensor, span: int) -> Tensor:
    groups = x.float().reshape(len(x), -1, span)
    most = groups.abs().amax(dim=2, keepdim=True)
    return ((groups * (127 / most).nan_to_num(posinf=0)).round() * (most / 127)).flatten(1)


@pytest.mark.parametrize(("kind", "span"), [(Int8Linear, SPAN), (Int4Linear, GROUP)])
@pytest.mark.parametrize("rows", ROWS)
def test_quantised_kernels_multiply_the_rounded_inputs_exactly(
    kernels: SmallBatchKernels, kind: type[Int8Linear] | type[Int4Linear], span: int, rows: int
) -> None:
    weight, x = drawn(64, 640).bfloat16(), drawn(rows, 640, seed=1).bfloat16()
    x[0, :SPAN] = 0
    x[:, SPAN : 2 * SPAN] *= 1000  # a scale of its own
    small = x.clone()
    small[:, SPAN : 2 * SPAN] = 0  # beside which an error of the others would not show
    made = kind(weight, None, kernels, 64)
    rounds = kind is Int8Linear or rows <= 4  # above, 4-bit weights are expanded and the inputs stay as they are
    expanded = kind(weight, None, None).expanded(torch.float32 if rounds else torch.bfloat16).float()
    for given in (x, small):
        expected = functional.linear(blockwise(given, span) if rounds else given.float(), expanded)
        assert near(made(given), expected, share=2**-8)  # of bfloat16 outputs


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_quantised_kernels_pass_broken_inputs_on(
    kernels: SmallBatchKernels, kind: type[Int8Linear] | type[Int4Linear], broken: float
) -> None:
    x = drawn(2, 256).bfloat16()
    x[1, 70] = broken
    found = kind(drawn(64, 256).bfloat16(), None, kernels, 64)(x)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()


def test_a_wrong_kernel_is_not_used(kernels: SmallBatchKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.linear_bf16
    monkeypatch.setattr(kernels, "linear_bf16", lambda *inputs: right(*inputs) * 1.1)
    assert measure(kernels, None)[0] == 0


def test_float32_stays_torchs() -> None:
    assert cpu_kernels(CONFIG, torch.float32, None, lambda _: None) is PLAIN_KERNELS

"""Every way of holding a weight computes what the plain one does, as near as its format allows."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.compiler import CompilerUnavailable, compile_library
from workers.vision.model import cpu_library
from workers.vision.model.cpu_kernels import cpu_kernels
from workers.vision.model.cpu_library import FLAGS, SOURCES, CpuLibrary, Format
from workers.vision.model.decoder import PLAIN_KERNELS
from workers.vision.model.linear import Activation, Linear, PackedLinear, PlainLinear
from workers.vision.model.norm import Norm
from workers.vision.model.packed_weights import GROUP, NF4

SPAN = 256  #: inputs that share a scale, of int8 weights
CONFIG = DecoderConfig("llama", 512, 1, 8, 2, 64, 100, 1e-5, False, 1e4, 1.0, 4096)
ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 33)
QUANTISED = (Format.INT8, Format.INT4)


@pytest.fixture(scope="module", params=["of this machine", "portable"])
def library(request: pytest.FixtureRequest) -> CpuLibrary:
    """Processors without AVX-512 take other lines of the source."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    return portable() if request.param == "portable" else CpuLibrary()


def portable() -> CpuLibrary:
    with pytest.MonkeyPatch.context() as patch:
        flags = (*(flag for flag in FLAGS if not flag.startswith("-march")), "-mno-avx512f")
        patch.setattr(cpu_library, "FLAGS", flags)
        return CpuLibrary()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


RMS_NORM = Norm(drawn(640, seed=3), None, 1e-5)
LAYER_NORM = Norm(drawn(640, seed=3), drawn(640, seed=6), 1e-5)


def near(found: Tensor, expected: Tensor, share: float = 0.02) -> bool:
    return float((found.float() - expected.float()).abs().max()) <= share * float(expected.float().abs().max())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("activation", list(Activation))
def test_the_kernel_computes_what_its_expanded_weight_does(
    library: CpuLibrary, form: Format, rows: int, activation: Activation
) -> None:
    """With a number of outputs that fills no panel where that may be, and all that stands before and after a layer."""
    gated = activation is Activation.GATED
    outputs = 96 if gated else 99
    weight, x, bias = drawn(outputs, 640), drawn(rows, 640, seed=1) + 3, drawn(outputs, seed=2)
    residual, scale = drawn(rows, outputs // (1 + gated), seed=4), None if gated else drawn(outputs, seed=5)
    layer = PackedLinear(weight, bias, form, library, activation=activation, scale=scale)
    twin = PlainLinear(layer.expanded(torch.bfloat16), bias, activation, scale)
    share = 0.02 if form is Format.BF16 else 0.05
    assert near(layer(x), twin(x), share)
    for norm in (RMS_NORM, LAYER_NORM):
        assert near(layer(x, norm, residual), twin(x, norm, residual), share)
        assert torch.equal(layer.twin(x, norm, residual), twin(x, norm, residual))


def test_gelu_is_torchs_as_near_as_bfloat16_tells(library: CpuLibrary) -> None:
    """Everywhere, and what is broken stays broken."""
    x = torch.linspace(-9, 9, 32 * 512).bfloat16().view(-1, 32)
    x[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    layer = PackedLinear(torch.eye(32).bfloat16(), None, Format.BF16, library, activation=Activation.GELU)
    expected = functional.gelu(x[1:])
    assert torch.allclose(layer(x)[1:], expected, rtol=2**-7, atol=1e-6)
    assert not layer(x)[0].isfinite().any()


def test_a_packed_weight_comes_back_as_it_was() -> None:
    for activation in Activation:
        layer = PackedLinear(drawn(64, 32), None, Format.BF16, None, activation=activation)
        assert torch.equal(layer.expanded(torch.bfloat16), drawn(64, 32))


def test_a_layer_of_no_rows_gives_none_and_of_tiles_keeps_their_shape(library: CpuLibrary) -> None:
    layer = PackedLinear(drawn(64, 32), None, Format.BF16, library)
    assert layer(drawn(0, 32)).shape == (0, 64)
    assert layer(drawn(2, 5, 32)).shape == (2, 5, 64)


@pytest.mark.parametrize(("form", "share"), [(Format.INT8, 0.006), (Format.INT4, 0.11)])
def test_quantising_keeps_a_normal_weight_within_its_steps(form: Format, share: float) -> None:
    weight = drawn(64, 512).float()
    error = (PackedLinear(weight, None, form, None).expanded(torch.float32) - weight).square().mean().sqrt()
    assert 0 < float(error / weight.square().mean().sqrt()) < share * 1.5


def test_the_4_bit_values_come_back_as_they_are() -> None:
    weight = torch.tensor(NF4).repeat(4, 8)
    found = PackedLinear(weight, None, Format.INT4, None).expanded(torch.float32)
    assert torch.allclose(found, weight, atol=0.5 / 127)


def blockwise(x: Tensor, span: int) -> Tensor:
    """What the kernels make of their inputs: int8 with a scale for each `span`, at the end for each 64, as float32."""
    whole = x.shape[1] // span * span
    return torch.cat((_rounded(x[:, :whole], span), _rounded(x[:, whole:], GROUP)), dim=1)


def _rounded(x: Tensor, span: int) -> Tensor:
    groups = x.float().reshape(len(x), -1, span)
    most = groups.abs().amax(dim=2, keepdim=True)
    return ((groups * (127 / most).nan_to_num(posinf=0)).round() * (most / 127)).flatten(1)


@pytest.mark.parametrize(("form", "span"), [(Format.INT8, SPAN), (Format.INT4, GROUP)])
@pytest.mark.parametrize("rows", ROWS)
def test_quantised_kernels_multiply_the_rounded_inputs_exactly(
    library: CpuLibrary, form: Format, span: int, rows: int
) -> None:
    weight, x = drawn(64, 640), drawn(rows, 640, seed=1)
    x[0, :SPAN] = 0
    x[:, SPAN : 2 * SPAN] *= 1000  # a scale of its own
    small = x.clone()
    small[:, SPAN : 2 * SPAN] = 0  # beside which an error of the others would not show
    layer = PackedLinear(weight, None, form, library)
    for given in (x, small):
        expected = PlainLinear(layer.expanded(torch.float32))(blockwise(given, span))
        assert near(layer(given), expected, share=2**-8)  # of bfloat16 outputs


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_quantised_kernels_pass_broken_inputs_on(library: CpuLibrary, form: Format, broken: float) -> None:
    x = drawn(2, 256)
    x[1, 70] = broken
    found = PackedLinear(drawn(64, 256), None, form, library)(x)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()


def test_a_layer_of_a_float32_model_keeps_what_stands_around_it_in_float32(library: CpuLibrary) -> None:
    layer = PackedLinear(drawn(64, 256), None, Format.INT8, library)
    x, norm, residual = drawn(3, 256, seed=1).float(), Norm(drawn(256).float(), None, 1e-5), torch.full((3, 64), 1e6)
    assert torch.equal(layer(x, norm, residual), residual + layer(x, norm))
    assert near(layer(x, norm), layer.twin(x, norm), 0.05)


def made(quantised: str | None, said: list[str]) -> Linear:
    return cpu_kernels(CONFIG, torch.bfloat16, quantised, said.append).linear(drawn(8, 64), None)  # type: ignore[arg-type]


def test_without_a_compiler_torch_computes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    said: list[str] = []
    assert isinstance(made(None, said), PlainLinear)
    assert "/no/such/compiler" in said[0]
    assert made("int8", said)(drawn(1, 64)).shape == (1, 8)


def test_without_a_compiler_what_the_image_has_compiled_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    prebuilt = tmp_path / "kernels.so"
    prebuilt.write_bytes(compile_library(SOURCES, FLAGS))
    monkeypatch.setenv("CC", "/no/such/compiler")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(cpu_library, "PREBUILT", ((prebuilt, frozenset({"of-no-processor"})),))
    with pytest.raises(CompilerUnavailable):
        CpuLibrary()
    monkeypatch.setattr(cpu_library, "PREBUILT", ((prebuilt, frozenset[str]()),))
    layer = PackedLinear(drawn(64, 256), None, Format.BF16, CpuLibrary())
    assert near(layer(drawn(5, 256)), layer.twin(drawn(5, 256)))


def test_a_wrong_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")

    def wrong(self: CpuLibrary, matrix: object, x: Tensor, y: Tensor, *_: object, **__: object) -> None:
        y.fill_(1)

    monkeypatch.setattr(CpuLibrary, "linear", wrong)
    said: list[str] = []
    assert isinstance(made(None, said), PlainLinear)
    assert "bf16 linear layers, 1 rows: wrong" in said[0]


def test_float32_stays_torchs() -> None:
    assert cpu_kernels(CONFIG, torch.float32, None, lambda _: None) is PLAIN_KERNELS

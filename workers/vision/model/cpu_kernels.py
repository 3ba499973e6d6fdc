"""What a CPU computes with: each kernel is held against plain torch, and timed, on this very machine first."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import DecoderConfig, Quantised
from workers.vision.compiler import CompilerUnavailable
from workers.vision.model.attention import attend_padded, attend_segment
from workers.vision.model.cpu_library import HEAD_MULTIPLE, CpuLibrary, Format
from workers.vision.model.decoder import PLAIN_KERNELS, DecoderKernels
from workers.vision.model.fast_path import FastPath, choose
from workers.vision.model.linear import ALL_ROWS, Activation, Linear, MakeLinear, PackedLinear, PlainLinear
from workers.vision.model.norm import Norm
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables, Segment
from workers.vision.model.packed_weights import LANES, MULTIPLES
from workers.vision.model.rotary import KV, RotaryTable, Rotate, rotate_and_store
from workers.vision.model.vision_encoder import attend_tiles

FORMATS: dict[Quantised | None, Format] = {None: Format.BF16, "int8": Format.INT8, "int4": Format.INT4}
ROWS = (1, 16, 256)  # for which a linear layer is compared: an answer, several, a prompt
#: Of the largest output: the kernels of quantised weights quantise their inputs too, the twin does not.
TOLERANCES = {Format.BF16: 0.02, Format.INT8: 0.04, Format.INT4: 0.04}
SHAPE = (8192, 2048)  # of its weight, as large as the caches of most processors
QUANTISED_SHAPE = (2048, 2048)  # smaller, because the twin expands it for every call


def cpu_kernels(
    config: DecoderConfig, dtype: torch.dtype, quantised: Quantised | None, report: Report
) -> DecoderKernels:
    """What a model computes with. What was measured, or why a kernel is left out, is reported."""
    if dtype != torch.bfloat16 and not quantised:
        return PLAIN_KERNELS
    try:
        library = CpuLibrary()
    except (CompilerUnavailable, OSError) as error:
        path = FastPath("kernels", "missing", f"plain torch takes their place: {error}")
        report(str(path))
        return DecoderKernels(_maker(FORMATS[quantised], None, 0), paths=(path,))
    make_linear, paths = _linear(library, FORMATS[quantised], report)
    if dtype != torch.bfloat16:
        return DecoderKernels(make_linear, paths=paths)
    encoder_linear, more = _linear(library, Format.BF16, report) if quantised else (make_linear, ())
    head = _linear(library, Format.INT8, report)[0] if quantised == "int4" else make_linear
    return _with_attention(
        library, config, DecoderKernels(make_linear, head, encoder_linear, paths=paths + more), report
    )


def _linear(library: CpuLibrary, form: Format, report: Report) -> tuple[MakeLinear, tuple[FastPath, ...]]:
    """Packed layers for as many rows as they are right and not slower for; bfloat16 ones for all rows or none."""
    random = torch.Generator().manual_seed(0)
    outputs, inputs = shape = SHAPE if form is Format.BF16 else QUANTISED_SHAPE
    weight = _drawn(random, *shape).mul_(0.02)
    packed = PackedLinear(weight, None, form, library, activation=Activation.GATED)
    twin: Linear = PlainLinear(weight, None, Activation.GATED) if form is Format.BF16 else packed.twin
    paths, most_rows = [], 0
    for rows in ROWS:
        norm = Norm(_drawn(random, inputs), None, 1e-5)
        arguments = _drawn(random, rows, inputs), norm, _drawn(random, rows, outputs // 2)
        name = f"{form.name.lower()} linear layers, {rows} rows"
        _, path = choose(name, lambda: packed, twin, arguments, report, tolerance=TOLERANCES[form])
        paths.append(path)
        if path.state != "used":
            break
        most_rows = rows if rows < ROWS[-1] else ALL_ROWS
    return _maker(form, library, most_rows), tuple(paths)


def _maker(form: Format, library: CpuLibrary | None, most_rows: int) -> MakeLinear:
    def make(
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: Activation = Activation.NONE,
        scale: Tensor | None = None,
    ) -> Linear:
        halves = activation is not Activation.GATED or len(weight) % (2 * LANES) == 0
        usable = form is not Format.BF16 or most_rows == ALL_ROWS
        if weight.shape[1] % MULTIPLES[form] or not (halves and usable):
            return PlainLinear(weight, bias, activation, scale)
        return PackedLinear(weight, bias, form, library, activation=activation, scale=scale, most_rows=most_rows)

    return make


def _with_attention(
    library: CpuLibrary, config: DecoderConfig, kernels: DecoderKernels, report: Report
) -> DecoderKernels:
    """`kernels` with those of attention that are right and not slower."""
    if config.head % HEAD_MULTIPLE:
        path = FastPath("attention", "missing", f"heads of {config.head} are no multiple of {HEAD_MULTIPLE}")
        report(str(path))
        return replace(kernels, paths=(*kernels.paths, path))
    random = torch.Generator().manual_seed(0)
    heads, kv_heads = config.heads, config.kv_heads
    queries, qkv = _drawn(random, 64, heads, config.head), _drawn(random, 8, heads + 2 * kv_heads, config.head)
    keys, values = (_drawn(random, 32 * PAGE_TOKENS, kv_heads, config.head) for _ in "kv")
    angles = RotaryTable(*(_drawn(random, 8, 1, config.head // 2) for _ in "cs"))
    pages = torch.randperm(32, generator=random)
    tables = DecodeTables(torch.arange(2), torch.stack((pages[:20], pages[10:30])), torch.tensor([300, 40]))
    segment = Segment(0, 64, 300, tuple(pages.tolist()[:19]))
    tiles = _drawn(random, 1, 300, 3 * heads, config.head).chunk(3, dim=2)
    compare = partial(choose, report=report)
    turn = partial(_stored, library.rotate_and_store)
    kv = keys, values, torch.arange(8)
    _, rotated = compare("rotary embedding", lambda: turn, partial(_stored, rotate_and_store), (qkv, angles, kv))
    asked = queries[:2], keys, values, tables
    _, answers = compare("attention of answers", lambda: library.attend_rows, attend_padded, asked)
    prompt = queries, keys, values, segment
    _, prompts = compare("attention of prompts", lambda: library.attend_prompt, attend_segment, prompt)
    _, towers = compare("attention of tiles", lambda: library.attend_tiles, attend_tiles, tiles)
    return replace(
        kernels,
        rotate=library.rotate_and_store if rotated.state == "used" else rotate_and_store,
        attend_rows=library.attend_rows if answers.state == "used" else None,
        attend_prompt=library.attend_prompt if prompts.state == "used" else None,
        attend_tiles=library.attend_tiles if towers.state == "used" else None,
        paths=(*kernels.paths, rotated, answers, prompts, towers),
    )


def _stored(rotate: Rotate, qkv: Tensor, angles: RotaryTable, kv: KV) -> Tensor:
    """The queries, and what was stored."""
    queries = rotate(qkv.clone(), angles, None, 0.0, kv)
    keys, values, slots = kv
    return torch.cat((queries, keys[slots], values[slots]), dim=1)


def _drawn(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random).to(torch.bfloat16)

"""What a GPU decodes with: each path is held against plain torch, and timed, on this very device first."""

from functools import partial

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.attention import AttendRows, attend_biased, attend_padded, attend_segment
from workers.vision.model.decoder import DecoderKernels
from workers.vision.model.fast_path import choose
from workers.vision.model.linear import PlainLinear
from workers.vision.model.norm import joined_rms_norm, rms_norm
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables, Segment, pages_for

PAGED_ATTENTION = "paged attention"
CONTEXTS = (1, 17, 700, 2000)  # of the rows that are compared: the shortest, a page begun, long ones
PROMPT_ROWS = 300  # of the longest, as the last part of a prompt


def gpu_kernels(config: DecoderConfig, dtype: torch.dtype, device: torch.device, report: Report) -> DecoderKernels:
    """What a decoder computes with on `device`."""
    random, compare = torch.Generator().manual_seed(0), partial(choose, report=report)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    longest = pages_for(max(CONTEXTS))
    pages = torch.randperm(len(CONTEXTS) * longest, generator=random).view(len(CONTEXTS), longest)
    pools = [draw(pages.numel() * PAGE_TOKENS, config.kv_heads, config.head) for _ in "kv"]
    tables = (part.to(device) for part in (torch.arange(len(CONTEXTS)), pages, torch.tensor(CONTEXTS)))
    answers = draw(len(CONTEXTS), config.heads, config.head), *pools, DecodeTables(*tables)
    prompt = Segment(0, PROMPT_ROWS, max(CONTEXTS), tuple(pages[0].tolist()))
    rows = draw(PROMPT_ROWS, config.heads, config.head), *pools, prompt
    plain_rows: AttendRows = attend_padded
    attend_rows, paged = compare(PAGED_ATTENTION, _load_attention, plain_rows, answers)
    attend_prompt, prompts = compare("attention of prompts", lambda: attend_lower_right, attend_segment, rows)
    hidden = draw(PROMPT_ROWS, config.hidden), draw(config.hidden), config.eps
    normalise, norm = compare("norm", lambda: joined_rms_norm, rms_norm, hidden)
    linear = partial(PlainLinear, normalise=normalise)
    return DecoderKernels(
        linear, linear, attend_rows=attend_rows, attend_prompt=attend_prompt, paths=(paged, prompts, norm)
    )


def attend_lower_right(queries: Tensor, keys: Tensor, values: Tensor, segment: Segment) -> Tensor:
    """`AttendPrompt` with a bias that torch knows by name: with numbers it would keep all scores in memory."""
    from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415  # brings torch._dynamo: 145 MB of memory

    return attend_biased(queries, keys, values, segment, lambda part, _: causal_lower_right(part.rows, part.context))


def _load_attention() -> AttendRows:
    from workers.vision.model.paged_attention import attend_paged  # noqa: PLC0415 - Triton is not on every machine

    return attend_paged

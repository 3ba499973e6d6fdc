"""What a GPU decodes with: each path is held against plain torch, and timed, on this very device first."""

import torch

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.attention import AttendRows, attend_padded
from workers.vision.model.decoder import DecoderKernels
from workers.vision.model.fast_path import FastPath, choose
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables

PAGED_ATTENTION = "paged attention"
CONTEXTS = (1, 17, 700, 2000)  # of the rows that are compared: the shortest, a page begun, long ones


def gpu_kernels(config: DecoderConfig, dtype: torch.dtype, device: torch.device, report: Report) -> DecoderKernels:
    """What a decoder computes with on `device`."""
    attend_rows, path = checked_attention(config, dtype, device, report)
    return DecoderKernels(attend_rows=attend_rows, paths=(path,))


def checked_attention(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device, report: Report
) -> tuple[AttendRows, FastPath]:
    """The Triton kernel if it can be built for `device` and does it right, else plain torch."""
    arguments = _rows(config, dtype, device)
    return choose(PAGED_ATTENTION, _load_attention, attend_padded, arguments, report)


def _load_attention() -> AttendRows:
    from workers.vision.model.paged_attention import attend_paged  # noqa: PLC0415 - Triton is not on every machine

    return attend_paged


def _rows(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, DecodeTables]:
    """Queries, keys, values and tables of `CONTEXTS`, on pages in no order."""
    random = torch.Generator().manual_seed(0)
    longest = -(-max(CONTEXTS) // PAGE_TOKENS)
    shuffled = torch.randperm(len(CONTEXTS) * longest, generator=random).view(len(CONTEXTS), longest)

    def draw(rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, config.head, generator=random).to(device, dtype)

    slots = shuffled.numel() * PAGE_TOKENS
    tables = DecodeTables(torch.arange(len(CONTEXTS)), shuffled, torch.tensor(CONTEXTS))
    on_device = DecodeTables(*(part.to(device) for part in (tables.rows, tables.pages, tables.contexts)))
    return draw(len(CONTEXTS), config.heads), draw(slots, config.kv_heads), draw(slots, config.kv_heads), on_device

"""What quality `TILEQ_QUANTISE` costs on a CPU: right answers of the demo model, and logits beside float32's.

    python -m tests.bench.quantised --count 100

The logits are those of a text prompt and a few tokens after it, on checkpoints of `TILEQ_PARITY` with the released
families' layouts and random weights: how far they are off as a part of the largest one, the smallest cosine between
both, and how often the likeliest token is the same. Random weights make many tokens nearly as likely, so it changes
more often than a trained model's.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional

from infra.demo_model import seeds
from infra.demo_model.evaluate import GROUPS, InferencePipeline, evaluate
from infra.demo_model.export import BUNDLED
from tests.integration.vision import cases
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.checkpoint.config import Quantised
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.loader import LoadOptions, load_packed
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment

PRECISIONS: dict[str, Quantised | None] = {"bfloat16": None, "int8": "int8", "int4": "int4"}
VARIANTS = ("mini", "v1_5")  # whose vocabulary is that of the released tokenizer
PROMPT, TOKENS = 33, 64


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="questions of each group")
    count = parser.parse_args().count
    print("| the demo model, right answers of each kind | " + " | ".join(group.name for group in GROUPS) + " |")
    print("|---" * (1 + len(GROUPS)) + "|")
    for name, quantised in PRECISIONS.items():
        print(
            f"| {name} | " + " | ".join(f"{share:.1%}" for share in right_answers(quantised, count)) + " |", flush=True
        )
    print("| logits beside float32's: largest distance, smallest cosine, same token | " + " | ".join(VARIANTS) + " |")
    print("|---" * (1 + len(VARIANTS)) + "|")
    with TemporaryDirectory() as folder:
        checkpoints = [open_checkpoint(cases.checkpoint(Path(folder), variant, 0)) for variant in VARIANTS]
        for name, quantised in PRECISIONS.items():
            print(f"| {name} | " + " | ".join(compared(checkpoint, quantised) for checkpoint in checkpoints) + " |")


def right_answers(quantised: Quantised | None, count: int) -> list[float]:
    """The share of each group's questions that the demo model answers exactly."""
    torch.set_flush_denormal(True)
    pipeline = InferencePipeline(BUNDLED, "bfloat16", quantised)
    answers = list(evaluate(pipeline, lambda stream, question: seeds.evaluate(7, stream, question), count))
    pipeline.close()
    return [sum(a.is_right for a in answers if a.group == group.name) / count for group in GROUPS]


def compared(checkpoint: Checkpoint, quantised: Quantised | None) -> str:
    """How the logits differ from those in float32."""
    expected, found = logits(checkpoint, "float32", None), logits(checkpoint, "bfloat16", quantised)
    distance = (found - expected).abs().max() / expected.abs().max()
    cosine = functional.cosine_similarity(found, expected).min()
    same = (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean()
    return f"{distance:.1%}, {cosine:.4f}, {same:.0%}"


@torch.inference_mode()
def logits(checkpoint: Checkpoint, dtype: str, quantised: Quantised | None) -> Tensor:
    """(rows, vocab): of a prompt's last row, then of each of a few ids after it, so of many rows and of one."""
    decoder = load_packed(checkpoint, LoadOptions("cpu", dtype, quantised), lambda _: None).decoder
    ids = torch.randint(300, 400, (TOKENS,), generator=torch.Generator().manual_seed(0))
    pool = KVPages(decoder.config, -(-TOKENS // PAGE_TOKENS), decoder.embedding.dtype, decoder.devices)
    found = []
    for first, stop in [(0, PROMPT), *((place, place + 1) for place in range(PROMPT, TOKENS))]:
        positions = torch.arange(first, stop)
        segment = Segment(0, stop - first, stop, tuple(range(-(-stop // PAGE_TOKENS))))
        batch = PackedBatch(ids[first:stop], positions, positions, (segment,), torch.tensor([stop - first - 1]))
        found.append(decoder(batch, pool).float())
    return torch.cat(found)


if __name__ == "__main__":
    main()

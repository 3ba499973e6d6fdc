"""The dense phases: the vision tower learns from dense targets, on crops and then on whole tiles."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import seeds
from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.dense_batches import (
    CROP_BATCHES,
    SPARSE_TILE_BATCHES,
    TILE_BATCHES,
    BatchSpec,
    DenseBatch,
    draw_batch,
    step_batches,
)
from infra.demo_model.dense_targets import PATCH_ATTRIBUTES, PATCH_PX, TOKEN_ATTRIBUTES
from infra.demo_model.heads import PATCH_WEIGHTS, TOKEN_WEIGHTS, DenseHeads, dense_loss
from infra.demo_model.initialisation import initialise
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import autocast
from infra.demo_model.trainer import Phase, Trainer
from infra.demo_model.training_checkpoint import SaveTimer
from infra.demo_model.training_log import log

ATTRIBUTE_NAMES = list(PATCH_ATTRIBUTES) + [f"digit{i}" for i in range(MAX_DIGITS)] + list(TOKEN_ATTRIBUTES)
EVALUATION_INTERVAL_STEPS = 500
EVALUATION_BATCHES = (BatchSpec("number", 9, 3, 64), BatchSpec("print", 8, 3, 64), BatchSpec("tile", 14, 14, 24))
#: Attributes whose names begin alike are one figure of the evaluation.
EVALUATED_PREFIXES = (
    "digit",
    "glyph",
    "label",
    "length",
    "shape",
    "colour",
    "rank_left",
    "rank_bottom",
    "count_all",
    "count_kind",
)


@dataclass(frozen=True, kw_only=True)
class DensePhase(Phase):
    """A phase of training on dense targets."""

    warmup_steps: int = 60
    min_rate_factor: float = 0.05
    #: (end, specs): the batches of every step before this part of the phase's steps
    batches: tuple[tuple[float, tuple[BatchSpec, ...]], ...]

    def specs_at(self, step: int) -> tuple[BatchSpec, ...]:
        """Return the specs of the batches of `step`."""
        return next(specs for end, specs in self.batches if step < end * self.steps)


PHASES = (
    DensePhase(
        number=1,
        name="crops",
        steps=2200,
        peak_rates=(0.02, 2e-3),
        decay_fraction=0.1,
        batches=((1.0, CROP_BATCHES),),
    ),
    DensePhase(
        number=2,
        name="tiles",
        steps=2700,
        peak_rates=(0.015, 1.5e-3),
        decay_fraction=0.6,
        batches=((0.86, SPARSE_TILE_BATCHES), (1.0, TILE_BATCHES)),
    ),
)


@dataclass
class AttributeCounts:
    """By attribute: places where it has a value, and those of them that were classified correctly."""

    correct: Counter[str]
    total: Counter[str]

    @classmethod
    def empty(cls) -> "AttributeCounts":
        """Return counts of nothing."""
        return cls(Counter(), Counter())

    def add(self, other: "AttributeCounts") -> None:
        """Add the counts of `other`."""
        self.correct += other.correct
        self.total += other.total

    def percent(self, prefix: str) -> float | None:
        """Return the accuracy over all attributes whose names begin with `prefix`, None where none occurs."""
        total = sum(n for name, n in self.total.items() if name.startswith(prefix))
        correct = sum(n for name, n in self.correct.items() if name.startswith(prefix))
        return round(100 * correct / total, 1) if total else None


class DenseTrainer(Trainer):
    """Trains the vision tower, mlp1 and the dense heads."""

    phase: DensePhase

    def __init__(
        self, model: ChatModel, heads: DenseHeads, phase: DensePhase, process_group: DataParallelGroup = SINGLE_PROCESS
    ) -> None:
        self.model, self.heads = model, heads
        self.losses: list[float] = []
        self.counts = AttributeCounts.empty()
        modules = [model.vision_model, model.mlp1, heads]
        super().__init__(phase, modules, modules, process_group)

    def forward(self, batch: DenseBatch) -> tuple[Tensor, AttributeCounts]:
        """Return the loss of one batch and its counts of correct classifications."""
        with autocast():
            kept_tokens = None if batch.kept_tokens is None else torch.from_numpy(batch.kept_tokens)
            pixels = normalise(torch.from_numpy(batch.images))
            patches, tokens = self.model.encode_images(pixels, torch.from_numpy(batch.origins), kept_tokens)
            patch_logits, token_logits = self.heads(patches, tokens)
        patch_loss, patch_counts = dense_loss(patch_logits, torch.from_numpy(batch.patches), PATCH_WEIGHTS)
        token_loss, token_counts = dense_loss(token_logits, torch.from_numpy(batch.tokens), TOKEN_WEIGHTS)
        counts = AttributeCounts.empty()
        for offset, found in ((0, patch_counts), (len(PATCH_ATTRIBUTES), token_counts)):
            for i, (correct, total) in found.items():
                counts.correct[ATTRIBUTE_NAMES[offset + i]] += correct
                counts.total[ATTRIBUTE_NAMES[offset + i]] += total
        return patch_loss + token_loss, counts

    def accumulate_gradients(self) -> float:
        """Run one batch of every spec of the step."""
        step_loss = 0.0
        for batch in step_batches(self.phase.number, self.step, self.phase.specs_at(self.step), self.process_group):
            loss, counts = self.forward(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            step_loss += loss.item()
            self.counts.add(counts)
        self.losses.append(step_loss)
        return step_loss

    def pop_metrics(self) -> dict[str, float]:
        """Return the mean loss and the accuracy of every attribute, in percent."""
        counts, losses = self.counts, self.losses
        self.counts, self.losses = AttributeCounts.empty(), []
        accuracies = {
            name: round(100 * counts.correct[name] / counts.total[name], 1)
            for name in ATTRIBUTE_NAMES
            if counts.total[name]
        }
        return {"loss": round(float(np.mean(losses)), 3), **accuracies}

    def report(self) -> None:
        """Log metrics, and every 500 steps and at the end of the phase the evaluation of the averaged weights."""
        super().report()
        is_evaluated = self.step % EVALUATION_INTERVAL_STEPS == 0 or self.step == self.phase.steps
        if is_evaluated and self.process_group.is_main:
            log(phase=self.phase.name, step=self.step, check=self.evaluate_average())

    def evaluate_average(self) -> dict[str, float]:
        """Return the accuracies of the averaged weights on images kept apart, in percent."""
        weights = {k: v.clone() for k, v in self.modules.state_dict().items()}
        self.modules.load_state_dict(self.average.weights)
        try:
            return evaluate(self)
        finally:
            self.modules.load_state_dict(weights)


@torch.no_grad()
def evaluate(trainer: DenseTrainer) -> dict[str, float]:
    """Return accuracies on crops and whole tiles in percent, by attribute and of numbers read without a mistake."""
    accuracies: dict[str, float] = {}
    for spec in EVALUATION_BATCHES:
        batch = draw_batch(spec, seeds.check(0))
        _, counts = trainer.forward(batch)
        for prefix in EVALUATED_PREFIXES:
            percent = counts.percent(prefix)
            if percent is not None:
                accuracies[f"{spec.name}.{prefix}"] = percent
        if spec.name == "number":
            accuracies["number.exact"] = round(100 * exact_number_share(trainer, batch), 1)
    return accuracies


def exact_number_share(trainer: DenseTrainer, batch: DenseBatch) -> float:
    """Return the share of images in which every digit is classified correctly at its token."""
    with autocast():
        pixels = normalise(torch.from_numpy(batch.images))
        patches, tokens = trainer.model.encode_images(pixels, torch.from_numpy(batch.origins))
        logits = trainer.heads(patches, tokens)[1]
    predictions = torch.stack([x.argmax(-1) for x in logits[:MAX_DIGITS]], -1)
    digits = torch.from_numpy(batch.tokens)[..., :MAX_DIGITS]
    return float(((predictions == digits) | (digits == 0)).all(-1).all(-1).float().mean())


def first_patches() -> Tensor:
    """Return the normalised patches (n, 3*16*16) of the first training step, for the whitening."""
    images = [normalise(torch.from_numpy(b.images)) for b in step_batches(1, 0, CROP_BATCHES)]
    return torch.cat(
        [F.unfold(x, PATCH_PX, stride=PATCH_PX).transpose(1, 2).reshape(-1, 3 * PATCH_PX * PATCH_PX) for x in images]
    )


def initialise_model(model: ChatModel) -> None:
    """Give `model` its initial weights, the same in every run; seeds torch's global generator."""
    torch.manual_seed(0)
    initialise(model, first_patches())


def run(
    model: ChatModel,
    phase: DensePhase,
    saved: dict[str, Any] | None,
    timer: SaveTimer,
    process_group: DataParallelGroup,
) -> bool:
    """Train `model` through `phase`, from `saved` if given; return False when stopped."""
    trainer = DenseTrainer(model, DenseHeads(model.config), phase, process_group)
    if saved and saved["phase"] == phase.number:
        trainer.load_state_dict(saved)
    elif saved:
        trainer.modules.load_state_dict(saved["average"])
        trainer.reset_average()
    else:
        initialise_model(model)
        trainer.reset_average()
    return trainer.train(timer)

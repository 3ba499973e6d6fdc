"""The first phases: the vision tower learns from dense targets, on crops and then on whole tiles."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import seeds, training_checkpoint
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
from infra.demo_model.dense_targets import PATCH_ATTRIBUTES, TOKEN_ATTRIBUTES
from infra.demo_model.heads import PATCH_WEIGHTS, TOKEN_WEIGHTS, DenseHeads, dense_loss
from infra.demo_model.initialisation import initialise
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import autocast
from infra.demo_model.trainer import Trainer

NAMES = list(PATCH_ATTRIBUTES) + [f"digit{i}" for i in range(MAX_DIGITS)] + list(TOKEN_ATTRIBUTES)


@dataclass(frozen=True)
class DensePhase:
    """One stretch of dense training."""

    number: int
    name: str
    specs: tuple[tuple[float, tuple[BatchSpec, ...]], ...]  # up to which part of the steps, what a step sees
    steps: int
    rates: tuple[float, float]  # of Muon and of Adam at their peak
    decay_fraction: float  # the part of the steps, at the end, over which the rates fall to a twentieth


PHASES = (
    DensePhase(1, "crops", ((1.0, CROP_BATCHES),), 2200, (0.02, 2e-3), 0.1),
    DensePhase(2, "tiles", ((0.86, SPARSE_TILE_BATCHES), (1.0, TILE_BATCHES)), 2700, (0.015, 1.5e-3), 0.6),
)


def learning_rate_factor(phase: DensePhase, step: int) -> float:
    """Return the factor on the peak rates: a short rise, level, then down."""
    falling = (phase.steps - step) / (phase.decay_fraction * phase.steps)
    return max(0.05, min(1.0, (step + 1) / 60, falling))


class DenseTrainer(Trainer):
    """A phase in which the tower and its heads learn."""

    def __init__(
        self, model: ChatModel, heads: DenseHeads, phase: DensePhase, process_group: DataParallelGroup = SINGLE_PROCESS
    ) -> None:
        self.model, self.heads, self.phase = model, heads, phase
        everything = [model.vision_model, model.mlp1, heads]
        super().__init__(phase.number, everything, everything, phase.rates, process_group)

    @property
    def specs(self) -> tuple[BatchSpec, ...]:
        """What this step sees."""
        return next(specs for until, specs in self.phase.specs if self.step < until * self.phase.steps)

    def forward(self, data: DenseBatch) -> tuple[Tensor, Counter[str], Counter[str]]:
        """Return the loss of one batch, and by attribute how many were right and seen."""
        with autocast():
            kept_tokens = None if data.kept_tokens is None else torch.from_numpy(data.kept_tokens)
            pixels = normalise(torch.from_numpy(data.images))
            patches, tokens = self.model.encode_images(pixels, torch.from_numpy(data.origins), kept_tokens)
            patch_logits, token_logits = self.heads(patches, tokens)
        patch_loss, right_patches = dense_loss(patch_logits, torch.from_numpy(data.patches), PATCH_WEIGHTS)
        token_loss, right_tokens = dense_loss(token_logits, torch.from_numpy(data.tokens), TOKEN_WEIGHTS)
        right, seen = Counter[str](), Counter[str]()
        for offset, found in ((0, right_patches), (len(PATCH_ATTRIBUTES), right_tokens)):
            for i, (good, all_) in found.items():
                right[NAMES[offset + i]] += good
                seen[NAMES[offset + i]] += all_
        return patch_loss + token_loss, right, seen

    def advance(self, *, stop_requested: bool = False) -> tuple[float, Counter[str], Counter[str]]:
        """Take one step over every kind of picture at once."""
        total, right, seen = 0.0, Counter[str](), Counter[str]()
        for data in step_batches(self.phase.number, self.step, self.specs, self.process_group):
            loss, good, all_ = self.forward(data)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            right += good
            seen += all_
        training_checkpoint.require_finite(total)
        self.apply_gradients(learning_rate_factor(self.phase, self.step), stop_requested=stop_requested)
        return total, right, seen

    def evaluate(self) -> dict[str, float]:
        """Return how the averaged weights do on pictures kept apart, in percent."""
        modules = {k: v.clone() for k, v in self.modules.state_dict().items()}
        self.modules.load_state_dict(self.average.weights)
        try:
            return evaluate(self)
        finally:
            self.modules.load_state_dict(modules)


@torch.no_grad()
def evaluate(trainer: DenseTrainer) -> dict[str, float]:
    """Return accuracies on whole tiles and crops: all numbers read whole, and by attribute."""
    found: dict[str, float] = {}
    for spec in (BatchSpec("number", 9, 3, 64), BatchSpec("print", 8, 3, 64), BatchSpec("whole", 14, 14, 24)):
        data = draw_batch(spec, seeds.check(0))
        _, right, seen = trainer.forward(data)
        for group in ("digit", "glyph", "label", "length", "shape", "colour", "left", "bottom", "total", "alike"):
            all_ = sum(n for name, n in seen.items() if name.startswith(group))
            if all_:
                good = sum(n for name, n in right.items() if name.startswith(group))
                found[f"{spec.name}.{group}"] = round(100 * good / all_, 1)
        if spec.name == "number":
            found["number.whole"] = round(100 * number_accuracy(trainer, data), 1)
    return found


def number_accuracy(trainer: DenseTrainer, data: DenseBatch) -> float:
    """Return the share of pictures of which every digit is right where it stands."""
    with autocast():
        patches, tokens = trainer.model.encode_images(
            normalise(torch.from_numpy(data.images)), torch.from_numpy(data.origins)
        )
        logits = trainer.heads(patches, tokens)[1]
    guess = torch.stack([x.argmax(-1) for x in logits[:MAX_DIGITS]], -1)
    truth = torch.from_numpy(data.tokens)[..., :MAX_DIGITS]
    return float(((guess == truth) | (truth == 0)).all(-1).all(-1).float().mean())


def first_patches() -> Tensor:
    """Return normalised patches of the first training pictures, for the whitening."""
    images = [normalise(torch.from_numpy(b.images)) for b in step_batches(1, 0, CROP_BATCHES)]
    return torch.cat([F.unfold(p, 16, stride=16).transpose(1, 2).reshape(-1, 768) for p in images])


def initialise_model(model: ChatModel) -> None:
    """Give `model` its first weights."""
    torch.manual_seed(0)
    initialise(model, first_patches())


def run(
    model: ChatModel,
    phase: DensePhase,
    saved: dict[str, Any] | None,
    timer: training_checkpoint.CheckpointTimer,
    process_group: DataParallelGroup,
) -> bool:
    """Train through `phase`, from `saved` if it belongs to it; return False when interrupted."""
    heads = DenseHeads(model.config)
    trainer = DenseTrainer(model, heads, phase, process_group)
    if saved and saved["phase"] == phase.number:
        trainer.load_state_dict(saved)
    elif saved:
        trainer.modules.load_state_dict(saved["average"])
        trainer.reset_average()
    else:
        initialise_model(model)
        trainer.reset_average()
    losses: list[float] = []
    right, seen = Counter[str](), Counter[str]()
    while trainer.step < phase.steps:
        loss, good, all_ = trainer.advance(stop_requested=timer.stop_requested)
        right, seen, losses = right + good, seen + all_, [*losses, loss]
        if process_group.is_main and trainer.step % 50 == 0:
            training_checkpoint.log(
                phase=phase.name,
                step=trainer.step,
                loss=round(float(np.mean(losses)), 3),
                **{n: round(100 * right[n] / seen[n], 1) for n in NAMES if seen[n]},
            )
            right, seen, losses = Counter[str](), Counter[str](), []
        if process_group.is_main and trainer.step % 500 == 0:
            training_checkpoint.log(phase=phase.name, step=trainer.step, check=trainer.evaluate())
        if process_group.is_main and timer.is_due(stop_requested=trainer.stop_requested):
            training_checkpoint.save("state.pt", trainer.state_dict())
        if trainer.stop_requested:
            return False
    if process_group.is_main:
        training_checkpoint.log(phase=phase.name, step=trainer.step, check=trainer.evaluate())
        training_checkpoint.save("state.pt", trainer.state_dict())
    process_group.barrier()
    trainer.modules.load_state_dict(trainer.average.weights)
    return True

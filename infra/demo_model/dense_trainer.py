"""The first phases: the vision tower learns from dense targets, on crops and then on whole tiles."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import seeds
from infra.demo_model import training_checkpoint as state
from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.data_parallel import ALONE, Pair
from infra.demo_model.dense_batches import BUSY, CROPS, TILES, Batch, Kind, batch, step_batches
from infra.demo_model.dense_targets import PATCH_ATTRIBUTES, TOKEN_ATTRIBUTES
from infra.demo_model.heads import PATCH_WEIGHTS, TOKEN_WEIGHTS, Heads, dense_loss
from infra.demo_model.initialisation import begin
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import mixed
from infra.demo_model.trainer import Course

NAMES = list(PATCH_ATTRIBUTES) + [f"digit{i}" for i in range(MAX_DIGITS)] + list(TOKEN_ATTRIBUTES)


@dataclass(frozen=True)
class Phase:
    """One stretch of dense training."""

    number: int
    name: str
    kinds: tuple[tuple[float, tuple[Kind, ...]], ...]  # up to which part of the steps, what a step sees
    steps: int
    rates: tuple[float, float]  # of Muon and of Adam at their peak
    calm: float  # the part of the steps, at the end, over which the rates fall to a twentieth


PHASES = (
    Phase(1, "crops", ((1.0, CROPS),), 2200, (0.02, 2e-3), 0.1),
    Phase(2, "tiles", ((0.86, BUSY), (1.0, TILES)), 2700, (0.015, 1.5e-3), 0.6),
)


def rate(phase: Phase, step: int) -> float:
    """Return the factor on the peak rates: a short rise, level, then down."""
    falling = (phase.steps - step) / (phase.calm * phase.steps)
    return max(0.05, min(1.0, (step + 1) / 60, falling))


class Dense(Course):
    """A phase in which the tower and its heads learn."""

    def __init__(self, model: ChatModel, heads: Heads, phase: Phase, pair: Pair = ALONE) -> None:
        self.model, self.heads, self.phase = model, heads, phase
        everything = [model.vision_model, model.mlp1, heads]
        super().__init__(phase.number, everything, everything, phase.rates, pair)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What this step sees."""
        return next(kinds for until, kinds in self.phase.kinds if self.step < until * self.phase.steps)

    def forward(self, data: Batch) -> tuple[Tensor, Counter[str], Counter[str]]:
        """Return the loss of one batch, and by attribute how many were right and seen."""
        with mixed():
            cells = None if data.cells is None else torch.from_numpy(data.cells)
            pixels = normalise(torch.from_numpy(data.pictures))
            patches, tokens = self.model.see(pixels, torch.from_numpy(data.origins), cells)
            of_patches, of_tokens = self.heads(patches, tokens)
        first, right_patches = dense_loss(of_patches, torch.from_numpy(data.patches), PATCH_WEIGHTS)
        second, right_tokens = dense_loss(of_tokens, torch.from_numpy(data.tokens), TOKEN_WEIGHTS)
        right, seen = Counter[str](), Counter[str]()
        for offset, found in ((0, right_patches), (len(PATCH_ATTRIBUTES), right_tokens)):
            for i, (good, all_) in found.items():
                right[NAMES[offset + i]] += good
                seen[NAMES[offset + i]] += all_
        return first + second, right, seen

    def advance(self, *, ending: bool = False) -> tuple[float, Counter[str], Counter[str]]:
        """Take one step over every kind of picture at once."""
        total, right, seen = 0.0, Counter[str](), Counter[str]()
        for data in step_batches(self.phase.number, self.step, self.kinds, self.pair):
            loss, good, all_ = self.forward(data)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            right += good
            seen += all_
        state.sound(total)
        self.update(rate(self.phase, self.step), ending=ending)
        return total, right, seen

    def examine(self) -> dict[str, float]:
        """Return how the averaged weights do on pictures kept apart, in percent."""
        kept = {k: v.clone() for k, v in self.kept.state_dict().items()}
        self.kept.load_state_dict(self.average.weights)
        try:
            return examine(self)
        finally:
            self.kept.load_state_dict(kept)


@torch.no_grad()
def examine(dense: Dense) -> dict[str, float]:
    """Return accuracies on whole tiles and crops: all numbers read whole, and by attribute."""
    found: dict[str, float] = {}
    for kind in (Kind("number", 9, 3, 64), Kind("print", 8, 3, 64), Kind("whole", 14, 14, 24)):
        data = batch(kind, seeds.check(0))
        _, right, seen = dense.forward(data)
        for group in ("digit", "glyph", "label", "length", "shape", "colour", "left", "bottom", "total", "alike"):
            all_ = sum(n for name, n in seen.items() if name.startswith(group))
            if all_:
                good = sum(n for name, n in right.items() if name.startswith(group))
                found[f"{kind.name}.{group}"] = round(100 * good / all_, 1)
        if kind.name == "number":
            found["number.whole"] = round(100 * read_whole(dense, data), 1)
    return found


def read_whole(dense: Dense, data: Batch) -> float:
    """Return the share of pictures of which every digit is right where it stands."""
    with mixed():
        patches, tokens = dense.model.see(normalise(torch.from_numpy(data.pictures)), torch.from_numpy(data.origins))
        logits = dense.heads(patches, tokens)[1]
    guess = torch.stack([x.argmax(-1) for x in logits[:MAX_DIGITS]], -1)
    truth = torch.from_numpy(data.tokens)[..., :MAX_DIGITS]
    return float(((guess == truth) | (truth == 0)).all(-1).all(-1).float().mean())


def first_patches() -> Tensor:
    """Return normalised patches of the first training pictures, for the whitening."""
    pictures = [normalise(torch.from_numpy(b.pictures)) for b in step_batches(1, 0, CROPS)]
    return torch.cat([F.unfold(p, 16, stride=16).transpose(1, 2).reshape(-1, 768) for p in pictures])


def start(model: ChatModel) -> None:
    """Give `model` its first weights."""
    torch.manual_seed(0)
    begin(model, first_patches())


def run(model: ChatModel, phase: Phase, saved: dict[str, Any] | None, clock: state.Clock, pair: Pair) -> bool:
    """Train through `phase`, from `saved` if it belongs to it; return False when interrupted."""
    heads = Heads(model.sizes)
    dense = Dense(model, heads, phase, pair)
    if saved and saved["phase"] == phase.number:
        dense.resume(saved)
    elif saved:
        dense.kept.load_state_dict(saved["average"])
        dense.begin()
    else:
        start(model)
        dense.begin()
    losses: list[float] = []
    right, seen = Counter[str](), Counter[str]()
    while dense.step < phase.steps:
        loss, good, all_ = dense.advance(ending=clock.ending)
        right, seen, losses = right + good, seen + all_, [*losses, loss]
        if pair.first and dense.step % 50 == 0:
            state.log(
                phase=phase.name,
                step=dense.step,
                loss=round(float(np.mean(losses)), 3),
                **{n: round(100 * right[n] / seen[n], 1) for n in NAMES if seen[n]},
            )
            right, seen, losses = Counter[str](), Counter[str](), []
        if pair.first and dense.step % 500 == 0:
            state.log(phase=phase.name, step=dense.step, check=dense.examine())
        if pair.first and clock.due(ending=dense.ending):
            state.save("state.pt", dense.state())
        if dense.ending:
            return False
    if pair.first:
        state.log(phase=phase.name, step=dense.step, check=dense.examine())
        state.save("state.pt", dense.state())
    pair.wait()
    dense.kept.load_state_dict(dense.average.weights)
    return True

"""The phases with questions and answers: the decoder learns from what a frozen tower sees.

decoder  tiles come from a pool and are asked about over and over; most blank tokens are left out at first
fresh    the same with more new tiles, for those of the pool are known by heart after a while
count    the same, half of the drawings shapes that have a kind or a colour in common, and many of them counted

The tower stays frozen to the end: trained along, its dense loss rose by half within 150 steps (Muon at 0.004).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import seeds, training_checkpoint
from infra.demo_model.conversations import (
    TWO_IMAGES_PREFIX,
    about_counts,
    about_one,
    about_page,
    about_shapes,
    about_two,
)
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.feature_cache import CachedTile, FeatureCache, add_tiles, compose_page, sample_tile
from infra.demo_model.heads import DenseHeads
from infra.demo_model.model import AttentionSupervision, ChatModel
from infra.demo_model.packing import IGNORE_LABEL, PackedBatch, PackedRow, pack_row, pad_rows
from infra.demo_model.precision import autocast, compute_dtype
from infra.demo_model.prompt_format import load_prompt_format
from infra.demo_model.render import Rng
from infra.demo_model.trainer import Trainer
from workers.vision.prompts import IMAGE_CONTEXT, PromptFormat


@dataclass(frozen=True)
class DataMixture:
    """What a step sees, in each of two processes.

    rows: about one drawing, two drawings, a page, one tile of a page; whole: the same with every token of the pictures
    talks: conversations in a row of each sort
    shapes, counts: so many more in a row about one drawing that has shapes, about those and about how many they are
    crowds: the share of new drawings in which shapes have a kind or a colour in common
    """

    sparse_rows: tuple[int, int, int, int] = (7, 3, 1, 3)
    full_rows: tuple[int, int, int, int] = (4, 2, 1, 2)
    conversations: tuple[int, int, int, int] = (10, 10, 12, 8)
    shape_questions: int = 10
    count_questions: int = 0
    repeated_share: float = 0.0


@dataclass(frozen=True)
class DecoderPhase:
    """One stretch of training on conversations."""

    number: int
    name: str
    steps: int
    rates: tuple[float, float]
    decay_fraction: float
    full_tiles_after: float  # from this part on, no token of a picture is left out
    refresh_every_steps: int  # so many steps apart new tiles are seen
    mixture: DataMixture = DataMixture()


PHASES = (
    DecoderPhase(3, "decoder", 1500, (0.01, 1.2e-3), 0.7, 0.93, 3),
    DecoderPhase(4, "fresh", 1250, (0.006, 8e-4), 1.0, 0.92, 2),
    DecoderPhase(
        5,
        "count",
        1500,
        (0.006, 8e-4),
        1.0,
        0.9,
        2,
        DataMixture((6, 2, 2, 2), shape_questions=6, count_questions=8, repeated_share=0.5),
    ),
)
ATTENTION_LOSS_WEIGHT = 0.5  # of the loss of not looking where the answer classes


def learning_rate_factor(phase: DecoderPhase, step: int) -> float:
    """Return the factor on the peak rates."""
    return max(0.03, min(1.0, (step + 1) / 100, (phase.steps - step) / (phase.decay_fraction * phase.steps)))


def draw_rows(
    rng: Rng, cache: FeatureCache, prompt_format: PromptFormat, mixture: DataMixture, drop_probability: float
) -> list[list[PackedRow]]:
    """Draw rows from the pool, those of similar length together; `thinned` of the blank tokens are left out."""
    counts = mixture.sparse_rows if drop_probability else mixture.full_rows

    def make(conversations: list[Any], groups: list[list[CachedTile]]) -> PackedRow:
        tiles = [t for group in groups for t in group]
        features, occupied = torch.cat([t.features for t in tiles]), torch.cat([t.occupied for t in tiles])
        keep = occupied | torch.from_numpy(rng.random(len(occupied)) >= drop_probability) if drop_probability else None
        classes = [torch.cat([t.classes for t in group]) for group in groups]
        return pack_row(
            prompt_format, conversations, [len(g) for g in groups], features, image_classes=classes, kept=keep, rng=rng
        )

    def turns() -> int:
        return 2 if rng.random() < 0.3 else 1

    singles, pairs, pages = [], [], []
    for _ in range(counts[0]):
        tile = sample_tile(rng, cache.drawings)
        conversations = [about_one(rng, tile.scene, turns()) for _ in range(mixture.conversations[0])]
        if tile.scene.shapes:
            conversations += [about_shapes(rng, tile.scene) for _ in range(mixture.shape_questions)]
            conversations += [about_counts(rng, tile.scene) for _ in range(mixture.count_questions)]
        singles.append(make(conversations, [[tile]]))
    for _ in range(counts[1]):
        one, two = sample_tile(rng, cache.drawings), sample_tile(rng, cache.drawings)
        prefix = TWO_IMAGES_PREFIX if rng.random() < 0.6 else ""
        conversations = [about_two(rng, one.scene, two.scene, prefix) for _ in range(mixture.conversations[1])]
        pairs.append(make(conversations, [[one], [two]]))
    for _ in range(counts[2]):
        page, tiles = compose_page(cache, rng)
        pages.append(make([about_page(rng, page, turns()) for _ in range(mixture.conversations[2])], [tiles]))
    for _ in range(counts[3]):
        tile = max((sample_tile(rng, cache.print_tiles) for _ in range(2)), key=lambda t: len(t.scene.fields))
        if tile.scene.fields:
            singles.append(
                make([about_page(rng, tile.scene, turns()) for _ in range(mixture.conversations[3])], [[tile]])
            )
    return [singles, pairs, pages]


@dataclass
class AnswerMetrics:
    """What a group of rows came to."""

    loss: Tensor
    token_accuracy: float  # share of the answers' tokens that were right
    answer_accuracy: float  # share of the answers that were right from end to end
    attention_mass: float  # share of the attention that went where it should


def answer_loss(model: ChatModel, packed: PackedBatch, context: int) -> AnswerMetrics:
    """Return the loss of the answers, a mean over their tokens, and of looking where they are read off."""
    with autocast():
        body = model.language_model.model
        x = body.tok_embeddings(packed.ids).to(compute_dtype())
        x = x.masked_scatter((packed.ids == context)[..., None], packed.features.to(x.dtype))
        answer_mask = packed.labels != IGNORE_LABEL
        supervision = AttentionSupervision(answer_mask, packed.attention_targets)
        hidden = model.language_model(x, packed.positions, packed.attention_mask, supervision)
        logits = model.language_model.output(hidden[answer_mask]).float()
    labels = packed.labels[answer_mask]
    right = logits.argmax(-1) == labels
    ends = torch.cat([torch.zeros(1, dtype=torch.long), right.long().cumsum(0)])
    last = torch.nonzero(labels == labels[-1]).flatten() + 1  # every answer ends with the stop token
    starts = torch.cat([torch.zeros(1, dtype=torch.long), last[:-1]])
    whole = (ends[last] - ends[starts]) == (last - starts)
    assert supervision.log_mass is not None
    loss = F.cross_entropy(logits, labels) - ATTENTION_LOSS_WEIGHT * supervision.log_mass.mean()
    attention_mass = supervision.log_mass.detach().exp().mean()
    return AnswerMetrics(loss, float(right.float().mean()), float(whole.float().mean()), float(attention_mass))


class DecoderTrainer(Trainer):
    """A phase in which the decoder learns; the tower and the heads are kept as they are."""

    def __init__(
        self,
        model: ChatModel,
        heads: DenseHeads,
        prompt_format: PromptFormat,
        phase: DecoderPhase,
        process_group: DataParallelGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self.prompt_format, self.phase, self.cache = model, prompt_format, phase, FeatureCache()
        self.context = prompt_format.tokenizer.token_id(IMAGE_CONTEXT)
        super().__init__(phase.number, [model, heads], [model.language_model], phase.rates, process_group)

    @property
    def uses_full_tiles(self) -> bool:
        """Say whether every token of a picture is there by now."""
        return self.step >= self.phase.full_tiles_after * self.phase.steps

    def fill_cache(self) -> None:
        """Fill the pool as it stood before this step."""
        for step in range(max(-60, self.step - 300), self.step):
            self.refresh_cache(step)

    def refresh_cache(self, step: int) -> None:
        """Show the tower new tiles, now and then once the pool is filled: it takes as long as to learn."""
        if step > 0 and step % self.phase.refresh_every_steps:
            return
        repeated_share = self.phase.mixture.repeated_share
        counts = (4, 4, 1, 1) if step % 12 == 0 else (4, 4, 0, 0)
        add_tiles(
            self.cache,
            self.model,
            seeds.train(self.phase.number, 0, step + 60, self.process_group.rank),
            counts,
            repeated_share,
        )

    def advance(self, *, stop_requested: bool = False) -> dict[str, float]:
        """Take one step over every sort of conversation at once."""
        metrics = self.compute_gradients()
        training_checkpoint.require_finite(sum(metrics.values()))
        self.apply_gradients(learning_rate_factor(self.phase, self.step), stop_requested=stop_requested)
        return metrics

    def compute_gradients(self) -> dict[str, float]:
        """Learn from the pool."""
        self.refresh_cache(self.step)
        rng = seeds.train(self.phase.number, 1, self.step, self.process_group.rank)
        groups = draw_rows(
            rng, self.cache, self.prompt_format, self.phase.mixture, 0.0 if self.uses_full_tiles else 0.92
        )
        return self.accumulate_gradients(groups, ("one", "two", "page"))

    def accumulate_gradients(self, groups: list[list[PackedRow]], names: tuple[str, ...]) -> dict[str, float]:
        """Add up the gradients of all answers, every answer token weighing the same in its group."""
        metrics: dict[str, float] = {}
        for name, group in zip(names, groups, strict=True):
            now = answer_loss(self.model, pad_rows(group, self.context), self.context)
            now.loss.backward()  # type: ignore[no-untyped-call]
            metrics |= {
                f"{name}.loss": now.loss.item(),
                f"{name}.token": now.token_accuracy,
                f"{name}.whole": now.answer_accuracy,
                f"{name}.look": now.attention_mass,
            }
        return metrics


@torch.no_grad()
def scale_projector(model: ChatModel) -> None:
    """Bring what the tower says, of norm 130, near to what words say, of norm 7; the dense heads don't notice.

    Otherwise no layer of the decoder could add to it which picture a token belongs to.
    """
    last = model.mlp1[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.mul_(0.1)
    last.bias.mul_(0.1)


def run(
    model: ChatModel,
    phase: DecoderPhase,
    saved: dict[str, Any],
    timer: training_checkpoint.CheckpointTimer,
    process_group: DataParallelGroup,
) -> bool:
    """Train through `phase`; return False when interrupted. The averaged weights end in `model`."""
    heads = DenseHeads(model.config)
    trainer = DecoderTrainer(
        model, heads, load_prompt_format(training_checkpoint.OUTPUT_FOLDER / "tokenizer"), phase, process_group
    )
    if saved["phase"] == phase.number:
        trainer.load_state_dict(saved)
    elif saved["phase"] == 2:  # the dense phases know no decoder
        torch.nn.ModuleList([model.vision_model, model.mlp1, heads]).load_state_dict(saved["average"])
        scale_projector(model)
        trainer.reset_average()
    else:
        trainer.modules.load_state_dict(saved["average"])
        trainer.reset_average()
    trainer.fill_cache()
    metrics: list[dict[str, float]] = []
    while trainer.step < phase.steps:
        metrics.append(trainer.advance(stop_requested=timer.stop_requested))
        if process_group.is_main and trainer.step % 50 == 0:
            training_checkpoint.log(
                phase=phase.name,
                step=trainer.step,
                **{k: round(float(np.mean([f[k] for f in metrics])), 4) for k in metrics[0]},
            )
            metrics = []
        if process_group.is_main and timer.is_due(stop_requested=trainer.stop_requested):
            training_checkpoint.save("state.pt", trainer.state_dict())
        if trainer.stop_requested:
            return False
    if process_group.is_main:
        training_checkpoint.save("state.pt", trainer.state_dict())
    process_group.barrier()
    trainer.modules.load_state_dict(trainer.average.weights)
    return True

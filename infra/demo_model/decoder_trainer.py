"""The decoder phases: the language model learns questions and answers from the features of a frozen tower.

decoder  tiles come from a cache and are used many times; most blank tokens are dropped at first
fresh    the same with more new tiles: after a while the decoder has memorised those of the cache
count    the same; half of the drawings repeat a kind or a colour of shape, and many questions count shapes

The tower stays frozen to the end: trained along, its dense loss rose by half within 150 steps (Muon at 0.004).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import dense_trainer, seeds, training_checkpoint
from infra.demo_model.conversations import (
    TWO_IMAGES_PREFIX,
    Conversation,
    about_counts,
    about_drawing,
    about_page,
    about_shapes,
    about_two_drawings,
)
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.feature_cache import CachedTile, FeatureCache, TileCounts, add_tiles, compose_page, sample_tile
from infra.demo_model.heads import DenseHeads
from infra.demo_model.model import AttentionSupervision, ChatModel
from infra.demo_model.packing import IGNORE_LABEL, PackedBatch, PackedRow, pack_row, pad_rows
from infra.demo_model.precision import autocast, compute_dtype
from infra.demo_model.prompt_format import load_prompt_format
from infra.demo_model.render import Rng
from infra.demo_model.trainer import Phase, Trainer
from infra.demo_model.training_checkpoint import SaveTimer
from workers.vision.prompts import IMAGE_CONTEXT, PromptFormat

BLANK_DROP_PROBABILITY = 0.92  # of a blank token, until `full_tiles_after`
SECOND_TURN_PROBABILITY = 0.3
ATTENTION_LOSS_WEIGHT = 0.5
CACHE_WARMUP_STEPS = 60  # refreshes before step 0
CACHE_HISTORY_STEPS = 300  # older refreshes have left the cache
ROW_GROUPS = ("one", "two", "page")


@dataclass(frozen=True)
class DataMixture:
    """Contents of one step on each rank.

    The four numbers are for rows about one drawing, two drawings, a page, and one tile of a page.
    """

    sparse_rows: tuple[int, int, int, int] = (7, 3, 1, 3)  #: rows while blank tokens are dropped
    full_rows: tuple[int, int, int, int] = (4, 2, 1, 2)  #: rows with every token of the images
    conversations: tuple[int, int, int, int] = (10, 10, 12, 8)  #: conversations packed into one row
    shape_questions: int = 10  #: further conversations in a row about one drawing that has shapes
    count_questions: int = 0  #: further conversations in such a row that ask for a number of shapes
    repeated_share: float = 0.0  #: share of new drawings whose shapes repeat a kind or a colour


@dataclass(frozen=True, kw_only=True)
class DecoderPhase(Phase):
    """A phase of training on conversations."""

    warmup_steps: int = 100
    min_rate_factor: float = 0.03
    full_tiles_after: float  #: part of the steps after which no token of an image is dropped
    refresh_interval_steps: int  #: steps between two additions to the cache
    mixture: DataMixture = DataMixture()


PHASES = (
    DecoderPhase(
        number=3,
        name="decoder",
        steps=1500,
        peak_rates=(0.01, 1.2e-3),
        decay_fraction=0.7,
        full_tiles_after=0.93,
        refresh_interval_steps=3,
    ),
    DecoderPhase(
        number=4,
        name="fresh",
        steps=1250,
        peak_rates=(0.006, 8e-4),
        decay_fraction=1.0,
        full_tiles_after=0.92,
        refresh_interval_steps=2,
    ),
    DecoderPhase(
        number=5,
        name="count",
        steps=1500,
        peak_rates=(0.006, 8e-4),
        decay_fraction=1.0,
        full_tiles_after=0.9,
        refresh_interval_steps=2,
        mixture=DataMixture(sparse_rows=(6, 2, 2, 2), shape_questions=6, count_questions=8, repeated_share=0.5),
    ),
)


class RowSampler:
    """Draws the packed rows of one step from the cache."""

    def __init__(
        self, rng: Rng, cache: FeatureCache, prompt_format: PromptFormat, mixture: DataMixture, drop_probability: float
    ) -> None:
        self.rng, self.cache, self.prompt_format, self.mixture = rng, cache, prompt_format, mixture
        self.drop_probability = drop_probability

    def draw(self) -> tuple[list[PackedRow], list[PackedRow], list[PackedRow]]:
        """Return rows of similar lengths together: about one tile, about two, about a page."""
        one, two, page, page_tile = self.mixture.sparse_rows if self.drop_probability else self.mixture.full_rows
        singles = [self.drawing_row() for _ in range(one)]
        pairs = [self.two_drawings_row() for _ in range(two)]
        pages = [self.page_row() for _ in range(page)]
        singles += [row for row in (self.page_tile_row() for _ in range(page_tile)) if row]
        return singles, pairs, pages

    def turns(self) -> int:
        """Draw the number of questions of a conversation."""
        return 2 if self.rng.random() < SECOND_TURN_PROBABILITY else 1

    def drawing_row(self) -> PackedRow:
        """Return conversations about one drawing."""
        rng, tile = self.rng, sample_tile(self.rng, self.cache.drawings)
        conversations = [about_drawing(rng, tile.scene, self.turns()) for _ in range(self.mixture.conversations[0])]
        if tile.scene.shapes:
            conversations += [about_shapes(rng, tile.scene) for _ in range(self.mixture.shape_questions)]
            conversations += [about_counts(rng, tile.scene) for _ in range(self.mixture.count_questions)]
        return self.pack(conversations, [[tile]])

    def two_drawings_row(self) -> PackedRow:
        """Return conversations about two drawings; in some rows the prompt numbers the images."""
        rng = self.rng
        first, second = sample_tile(rng, self.cache.drawings), sample_tile(rng, self.cache.drawings)
        prefix = TWO_IMAGES_PREFIX if rng.random() < 0.6 else ""
        conversations = [
            about_two_drawings(rng, first.scene, second.scene, prefix) for _ in range(self.mixture.conversations[1])
        ]
        return self.pack(conversations, [[first], [second]])

    def page_row(self) -> PackedRow:
        """Return conversations about a page of seven tiles."""
        page, tiles = compose_page(self.cache, self.rng)
        conversations = [about_page(self.rng, page, self.turns()) for _ in range(self.mixture.conversations[2])]
        return self.pack(conversations, [tiles])

    def page_tile_row(self) -> PackedRow | None:
        """Return conversations about one tile of print, the fuller one of two; None if both are blank."""
        tiles = [sample_tile(self.rng, self.cache.print_tiles) for _ in range(2)]
        tile = max(tiles, key=lambda t: len(t.scene.fields))
        if not tile.scene.fields:
            return None
        conversations = [about_page(self.rng, tile.scene, self.turns()) for _ in range(self.mixture.conversations[3])]
        return self.pack(conversations, [[tile]])

    def pack(self, conversations: list[Conversation], images: list[list[CachedTile]]) -> PackedRow:
        """Pack conversations about `images`, each a list of tiles, with blank tokens dropped at random."""
        tiles = [t for image in images for t in image]
        features, occupied = torch.cat([t.features for t in tiles]), torch.cat([t.occupied for t in tiles])
        kept = None
        if self.drop_probability:
            kept = occupied | torch.from_numpy(self.rng.random(len(occupied)) >= self.drop_probability)
        return pack_row(
            self.prompt_format,
            conversations,
            [len(image) for image in images],
            features,
            image_classes=[torch.cat([t.classes for t in image]) for image in images],
            kept=kept,
            rng=self.rng,
        )


@dataclass
class AnswerMetrics:
    """Loss and accuracies of a group of rows."""

    loss: Tensor
    token_accuracy: float  #: share of the answers' tokens predicted correctly
    answer_accuracy: float  #: share of the answers predicted correctly from end to end
    attention_mass: float  #: mean share of the supervised head's attention on its targets


def answer_loss(model: ChatModel, batch: PackedBatch, context_id: int) -> AnswerMetrics:
    """Return the cross-entropy of the answers, a mean over their tokens, plus the weighted attention loss.

    The attention loss is the mean negative logarithm of the attention mass on the targets. `context_id` is the token
    whose embedding the image features replace.
    """
    with autocast():
        body = model.language_model.model
        x = body.tok_embeddings(batch.ids).to(compute_dtype())
        x = x.masked_scatter((batch.ids == context_id)[..., None], batch.features.to(x.dtype))
        answer_mask = batch.labels != IGNORE_LABEL
        supervision = AttentionSupervision(answer_mask, batch.attention_targets)
        hidden = model.language_model(x, batch.positions, batch.attention_mask, supervision)
        logits = model.language_model.output(hidden[answer_mask]).float()
    labels = batch.labels[answer_mask]
    correct = logits.argmax(-1) == labels
    assert supervision.log_mass is not None
    return AnswerMetrics(
        F.cross_entropy(logits, labels) - ATTENTION_LOSS_WEIGHT * supervision.log_mass.mean(),
        float(correct.float().mean()),
        exact_answer_share(labels, correct),
        float(supervision.log_mass.detach().exp().mean()),
    )


def exact_answer_share(labels: Tensor, correct: Tensor) -> float:
    """Return the share of answers whose tokens are all correct; every answer ends with the last label, the stop token.

    labels, correct: (answer tokens,), the answers one after the other
    """
    cumulative = torch.cat([torch.zeros(1, dtype=torch.long), correct.long().cumsum(0)])
    ends = torch.nonzero(labels == labels[-1]).flatten() + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    return float(((cumulative[ends] - cumulative[starts]) == (ends - starts)).float().mean())


class DecoderTrainer(Trainer):
    """Trains the language model; the tower, mlp1 and the heads stay as they are."""

    phase: DecoderPhase

    def __init__(
        self,
        model: ChatModel,
        heads: DenseHeads,
        prompt_format: PromptFormat,
        phase: DecoderPhase,
        process_group: DataParallelGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self.prompt_format, self.cache = model, prompt_format, FeatureCache()
        self.context_id = prompt_format.tokenizer.token_id(IMAGE_CONTEXT)
        self.metrics: list[dict[str, float]] = []
        super().__init__(phase, [model, heads], [model.language_model], process_group)

    @property
    def uses_full_tiles(self) -> bool:
        """Return whether the images of this step keep all their tokens."""
        return self.step >= self.phase.full_tiles_after * self.phase.steps

    def fill_cache(self) -> None:
        """Fill the cache as it was before this step."""
        for step in range(max(-CACHE_WARMUP_STEPS, self.step - CACHE_HISTORY_STEPS), self.step):
            self.refresh_cache(step)

    def refresh_cache(self, step: int) -> None:
        """Add new tiles, if `step` is due for it: encoding them takes as long as the step itself."""
        if step > 0 and step % self.phase.refresh_interval_steps:
            return
        rng = seeds.train(self.phase.number, 0, step + CACHE_WARMUP_STEPS, self.process_group.rank)
        counts = TileCounts(4, 4, 1, 1) if step % 12 == 0 else TileCounts(4, 4, 0, 0)
        add_tiles(self.cache, self.model, rng, counts, self.phase.mixture.repeated_share)

    def accumulate_gradients(self) -> float:
        """Run the rows of one step; every answer token weighs the same within its group of rows."""
        self.refresh_cache(self.step)
        rng = seeds.train(self.phase.number, 1, self.step, self.process_group.rank)
        drop_probability = 0.0 if self.uses_full_tiles else BLANK_DROP_PROBABILITY
        groups = RowSampler(rng, self.cache, self.prompt_format, self.phase.mixture, drop_probability).draw()
        metrics = [self.backward(rows) for rows in groups]
        self.metrics.append(_by_group(metrics))
        return sum(m.loss.item() for m in metrics)

    def backward(self, rows: Sequence[PackedRow]) -> AnswerMetrics:
        """Accumulate the gradients of one group of rows."""
        metrics = answer_loss(self.model, pad_rows(rows, self.context_id), self.context_id)
        metrics.loss.backward()  # type: ignore[no-untyped-call]
        return metrics

    def pop_metrics(self) -> dict[str, float]:
        """Return the mean of every metric of every group of rows."""
        metrics, self.metrics = self.metrics, []
        return {name: round(float(np.mean([m[name] for m in metrics])), 4) for name in metrics[0]}


def _by_group(metrics: list[AnswerMetrics]) -> dict[str, float]:
    named: dict[str, float] = {}
    for group, m in zip(ROW_GROUPS, metrics, strict=True):
        named |= {
            f"{group}.loss": m.loss.item(),
            f"{group}.token_accuracy": m.token_accuracy,
            f"{group}.answer_accuracy": m.answer_accuracy,
            f"{group}.attention_mass": m.attention_mass,
        }
    return named


@torch.no_grad()
def scale_projector(model: ChatModel) -> None:
    """Scale the image features, of norm 130, towards the token embeddings, of norm 7.

    At their full norm no layer of the decoder could add to them which image a token belongs to. The dense heads
    normalise their input, so they do not change.
    """
    last = model.mlp1[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.mul_(0.1)
    last.bias.mul_(0.1)


def run(
    model: ChatModel,
    phase: DecoderPhase,
    saved: dict[str, Any],
    timer: SaveTimer,
    process_group: DataParallelGroup,
) -> bool:
    """Train `model` through `phase`, from `saved`; return False when stopped."""
    heads = DenseHeads(model.config)
    prompt_format = load_prompt_format(training_checkpoint.OUTPUT_FOLDER / "tokenizer")
    trainer = DecoderTrainer(model, heads, prompt_format, phase, process_group)
    if saved["phase"] == phase.number:
        trainer.load_state_dict(saved)
    elif saved["phase"] == dense_trainer.PHASES[-1].number:  # whose state holds no language model
        torch.nn.ModuleList([model.vision_model, model.mlp1, heads]).load_state_dict(saved["average"])
        scale_projector(model)
        trainer.reset_average()
    else:
        trainer.modules.load_state_dict(saved["average"])
        trainer.reset_average()
    trainer.fill_cache()
    return trainer.train(timer)

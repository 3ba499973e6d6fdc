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

from infra.demo_model import seeds
from infra.demo_model import training_checkpoint as state
from infra.demo_model.conversations import PAIR, about_counts, about_one, about_page, about_shapes, about_two
from infra.demo_model.data_parallel import ALONE, Pair
from infra.demo_model.feature_cache import Pool, Tile, compose, refresh, some
from infra.demo_model.heads import Heads
from infra.demo_model.model import ChatModel, Tell
from infra.demo_model.packing import SILENT, Packed, Row, pack, row
from infra.demo_model.precision import mixed, quick
from infra.demo_model.prompt_format import style
from infra.demo_model.render import Rng
from infra.demo_model.trainer import Course
from workers.vision.prompts import IMAGE_CONTEXT, PromptFormat


@dataclass(frozen=True)
class Diet:
    """What a step sees, in each of two processes.

    rows: about one drawing, two drawings, a page, one tile of a page; whole: the same with every token of the pictures
    talks: conversations in a row of each sort
    shapes, counts: so many more in a row about one drawing that has shapes, about those and about how many they are
    crowds: the share of new drawings in which shapes have a kind or a colour in common
    """

    rows: tuple[int, int, int, int] = (7, 3, 1, 3)
    whole: tuple[int, int, int, int] = (4, 2, 1, 2)
    talks: tuple[int, int, int, int] = (10, 10, 12, 8)
    shapes: int = 10
    counts: int = 0
    crowds: float = 0.0


@dataclass(frozen=True)
class Phase:
    """One stretch of training on conversations."""

    number: int
    name: str
    steps: int
    rates: tuple[float, float]
    calm: float
    whole_after: float  # from this part on, no token of a picture is left out
    every: int  # so many steps apart new tiles are seen
    diet: Diet = Diet()


PHASES = (
    Phase(3, "decoder", 1500, (0.01, 1.2e-3), 0.7, 0.93, 3),
    Phase(4, "fresh", 1250, (0.006, 8e-4), 1.0, 0.92, 2),
    Phase(5, "count", 1500, (0.006, 8e-4), 1.0, 0.9, 2, Diet((6, 2, 2, 2), shapes=6, counts=8, crowds=0.5)),
)
TOLD_WEIGHT = 0.5  # of the loss of not looking where the answer stands


def rate(phase: Phase, step: int) -> float:
    """Return the factor on the peak rates."""
    return max(0.03, min(1.0, (step + 1) / 100, (phase.steps - step) / (phase.calm * phase.steps)))


def rows(rng: Rng, pool: Pool, style: PromptFormat, diet: Diet, thinned: float) -> list[list[Row]]:
    """Draw rows from the pool, those of similar length together; `thinned` of the blank tokens are left out."""
    counts = diet.rows if thinned else diet.whole

    def make(talks: list[Any], groups: list[list[Tile]]) -> Row:
        tiles = [t for group in groups for t in group]
        features, busy = torch.cat([t.features for t in tiles]), torch.cat([t.busy for t in tiles])
        keep = busy | torch.from_numpy(rng.random(len(busy)) >= thinned) if thinned else None
        stands = [torch.cat([t.truth for t in group]) for group in groups]
        return row(style, talks, [len(g) for g in groups], features, seen=stands, keep=keep, rng=rng)

    def rounds() -> int:
        return 2 if rng.random() < 0.3 else 1

    singles, pairs, pages = [], [], []
    for _ in range(counts[0]):
        tile = some(rng, pool.drawings)
        talks = [about_one(rng, tile.scene, rounds()) for _ in range(diet.talks[0])]
        if tile.scene.shapes:
            talks += [about_shapes(rng, tile.scene) for _ in range(diet.shapes)]
            talks += [about_counts(rng, tile.scene) for _ in range(diet.counts)]
        singles.append(make(talks, [[tile]]))
    for _ in range(counts[1]):
        one, two = some(rng, pool.drawings), some(rng, pool.drawings)
        opening = PAIR if rng.random() < 0.6 else ""
        talks = [about_two(rng, one.scene, two.scene, opening) for _ in range(diet.talks[1])]
        pairs.append(make(talks, [[one], [two]]))
    for _ in range(counts[2]):
        page, tiles = compose(pool, rng)
        pages.append(make([about_page(rng, page, rounds()) for _ in range(diet.talks[2])], [tiles]))
    for _ in range(counts[3]):
        tile = max((some(rng, pool.lines) for _ in range(2)), key=lambda t: len(t.scene.fields))
        if tile.scene.fields:
            singles.append(make([about_page(rng, tile.scene, rounds()) for _ in range(diet.talks[3])], [[tile]]))
    return [singles, pairs, pages]


@dataclass
class Found:
    """What a group of rows came to."""

    loss: Tensor
    token: float  # share of the answers' tokens that were right
    whole: float  # share of the answers that were right from end to end
    look: float  # share of the attention that went where it should


def answer_loss(model: ChatModel, packed: Packed, context: int) -> Found:
    """Return the loss of the answers, a mean over their tokens, and of looking where they are read off."""
    with mixed():
        body = model.language_model.model
        x = body.tok_embeddings(packed.ids).to(quick())
        x = x.masked_scatter((packed.ids == context)[..., None], packed.features.to(x.dtype))
        at = packed.wanted != SILENT
        tell = Tell(at, packed.looks)
        hidden = model.language_model(x, packed.positions, packed.allowed, tell)
        logits = model.language_model.output(hidden[at]).float()
    wanted = packed.wanted[at]
    right = logits.argmax(-1) == wanted
    ends = torch.cat([torch.zeros(1, dtype=torch.long), right.long().cumsum(0)])
    last = torch.nonzero(wanted == wanted[-1]).flatten() + 1  # every answer ends with the stop token
    starts = torch.cat([torch.zeros(1, dtype=torch.long), last[:-1]])
    whole = (ends[last] - ends[starts]) == (last - starts)
    assert tell.share is not None
    loss = F.cross_entropy(logits, wanted) - TOLD_WEIGHT * tell.share.mean()
    looked = tell.share.detach().exp().mean()
    return Found(loss, float(right.float().mean()), float(whole.float().mean()), float(looked))


class Talking(Course):
    """A phase in which the decoder learns; the tower and the heads are kept as they are."""

    def __init__(self, model: ChatModel, heads: Heads, style: PromptFormat, phase: Phase, pair: Pair = ALONE) -> None:
        self.model, self.style, self.phase, self.pool = model, style, phase, Pool()
        self.context = style.tokenizer.token_id(IMAGE_CONTEXT)
        super().__init__(phase.number, [model, heads], [model.language_model], phase.rates, pair)

    @property
    def whole(self) -> bool:
        """Say whether every token of a picture is there by now."""
        return self.step >= self.phase.whole_after * self.phase.steps

    def fill(self) -> None:
        """Fill the pool as it stood before this step."""
        for step in range(max(-60, self.step - 300), self.step):
            self.refresh(step)

    def refresh(self, step: int) -> None:
        """Show the tower new tiles, now and then once the pool is filled: it takes as long as to learn."""
        if step > 0 and step % self.phase.every:
            return
        crowds = self.phase.diet.crowds
        sorts = (4, 4, 1, 1) if step % 12 == 0 else (4, 4, 0, 0)
        refresh(self.pool, self.model, seeds.train(self.phase.number, 0, step + 60, self.pair.rank), sorts, crowds)

    def advance(self, *, ending: bool = False) -> dict[str, float]:
        """Take one step over every sort of conversation at once."""
        found = self.ask()
        state.sound(sum(found.values()))
        self.update(rate(self.phase, self.step), ending=ending)
        return found

    def ask(self) -> dict[str, float]:
        """Learn from the pool."""
        self.refresh(self.step)
        rng = seeds.train(self.phase.number, 1, self.step, self.pair.rank)
        groups = rows(rng, self.pool, self.style, self.phase.diet, 0.0 if self.whole else 0.92)
        return self.learn(groups, ("one", "two", "page"))

    def learn(self, groups: list[list[Row]], names: tuple[str, ...]) -> dict[str, float]:
        """Add up the gradients of all answers, every answer token weighing the same in its group."""
        found: dict[str, float] = {}
        for name, group in zip(names, groups, strict=True):
            now = answer_loss(self.model, pack(group, self.context), self.context)
            now.loss.backward()  # type: ignore[no-untyped-call]
            found |= {
                f"{name}.loss": now.loss.item(),
                f"{name}.token": now.token,
                f"{name}.whole": now.whole,
                f"{name}.look": now.look,
            }
        return found


@torch.no_grad()
def level(model: ChatModel) -> None:
    """Bring what the tower says, of norm 130, near to what words say, of norm 7; the dense heads don't notice.

    Otherwise no layer of the decoder could add to it which picture a token belongs to.
    """
    last = model.mlp1[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.mul_(0.1)
    last.bias.mul_(0.1)


def run(model: ChatModel, phase: Phase, saved: dict[str, Any], clock: state.Clock, pair: Pair) -> bool:
    """Train through `phase`; return False when interrupted. The averaged weights end in `model`."""
    heads = Heads(model.sizes)
    talking = Talking(model, heads, style(state.OUT / "tokenizer"), phase, pair)
    if saved["phase"] == phase.number:
        talking.resume(saved)
    elif saved["phase"] == 2:  # the dense phases know no decoder
        torch.nn.ModuleList([model.vision_model, model.mlp1, heads]).load_state_dict(saved["average"])
        level(model)
        talking.begin()
    else:
        talking.kept.load_state_dict(saved["average"])
        talking.begin()
    talking.fill()
    found: list[dict[str, float]] = []
    while talking.step < phase.steps:
        found.append(talking.advance(ending=clock.ending))
        if pair.first and talking.step % 50 == 0:
            state.log(
                phase=phase.name,
                step=talking.step,
                **{k: round(float(np.mean([f[k] for f in found])), 4) for k in found[0]},
            )
            found = []
        if pair.first and clock.due(ending=talking.ending):
            state.save("state.pt", talking.state())
        if talking.ending:
            return False
    if pair.first:
        state.save("state.pt", talking.state())
    pair.wait()
    talking.kept.load_state_dict(talking.average.weights)
    return True

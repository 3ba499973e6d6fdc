"""The phases with questions and answers: the decoder on what a frozen tower sees, then everything together.

decoder  tiles come from a pool seen once; most blank tokens are left out at first
joint    whole pictures through the whole model; the dense targets stay on, so that the tower keeps its eyes
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model import seeds, state
from infra.demo_model.conversations import PAIR, about_one, about_page, about_two
from infra.demo_model.crops import ALONE, GRID, Kind, of_scenes
from infra.demo_model.heads import PATCH_WEIGHTS, TOKEN_WEIGHTS, Heads, dense_loss
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.optim import Average, optimisers, set_rate
from infra.demo_model.pack import SILENT, Packed, Row, pack, row
from infra.demo_model.pair import Pair
from infra.demo_model.pool import Pool, Tile, compose, fresh_scenes, refresh, some
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene
from infra.demo_model.style import style
from workers.vision.prompts import IMAGE_CONTEXT, PromptFormat


@dataclass(frozen=True)
class Phase:
    """One stretch of training on conversations."""

    number: int
    name: str
    steps: int
    rates: tuple[float, float]
    calm: float
    whole_after: float  # from this part on, no token of a picture is left out
    joint: bool


PHASES = (
    Phase(3, "decoder", 2400, (0.02, 2e-3), 0.4, 0.9, False),
    Phase(4, "joint", 2300, (0.006, 6e-4), 0.8, 0.87, True),
)
ROWS = (7, 3, 2)  # rows about one drawing, two drawings, a page, in each of two processes
WHOLE_ROWS = (4, 2, 1)  # the same when no token of a picture is left out
JOINT_SCENES = (5, 3, 1, 1)  # drawings, lines, blanks, thumbnails that a joint step sees
JOINT_ROWS = (5, 1, 1)
TALKS = 6
BUSY_CELLS = 80  # tokens of a tile that stay when blank ones are left out


def rate(phase: Phase, step: int) -> float:
    """Return the factor on the peak rates."""
    return max(0.03, min(1.0, (step + 1) / 100, (phase.steps - step) / (phase.calm * phase.steps)))


def rows(rng: Rng, pool: Pool, style: PromptFormat, counts: tuple[int, int, int], thinned: float) -> list[list[Row]]:
    """Draw rows from the pool, those of similar length together; `thinned` of the blank tokens are left out."""

    def make(talks: list[Any], groups: list[list[Tile]]) -> Row:
        tiles = [t for group in groups for t in group]
        features, busy = torch.cat([t.features for t in tiles]), torch.cat([t.busy for t in tiles])
        keep = busy | torch.from_numpy(rng.random(len(busy)) >= thinned) if thinned else None
        return row(style, talks, [len(g) for g in groups], features, keep=keep, rng=rng)

    def rounds() -> int:
        return 2 if rng.random() < 0.3 else 1

    singles, pairs, pages = [], [], []
    for _ in range(counts[0]):
        tile = some(rng, pool.drawings)
        singles.append(make([about_one(rng, tile.scene, rounds()) for _ in range(TALKS)], [[tile]]))
    for _ in range(counts[1]):
        one, two = some(rng, pool.drawings), some(rng, pool.drawings)
        opening = PAIR if rng.random() < 0.6 else ""
        talks = [about_two(rng, one.scene, two.scene, opening) for _ in range(TALKS)]
        pairs.append(make(talks, [[one], [two]]))
    for _ in range(counts[2]):
        page, tiles = compose(pool, rng)
        pages.append(make([about_page(rng, page, rounds()) for _ in range(TALKS)], [tiles]))
    return [singles, pairs, pages]


def answer_loss(model: ChatModel, packed: Packed, context: int) -> tuple[Tensor, int, int, int, int]:
    """Return the summed loss of the answers, their tokens, how many were right, and answers whole right of all."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        body = model.language_model.model
        x = body.tok_embeddings(packed.ids).to(torch.bfloat16)
        x = x.masked_scatter((packed.ids == context)[..., None], packed.features.to(x.dtype))
        hidden = model.language_model(x, packed.positions, packed.allowed)
        at = packed.wanted != SILENT
        logits = model.language_model.output(hidden[at]).float()
    wanted = packed.wanted[at]
    right = logits.argmax(-1) == wanted
    ends = torch.cat([torch.zeros(1, dtype=torch.long), right.long().cumsum(0)])
    last = torch.nonzero(wanted == wanted[-1]).flatten() + 1  # every answer ends with the stop token
    starts = torch.cat([torch.zeros(1, dtype=torch.long), last[:-1]])
    whole = (ends[last] - ends[starts]) == (last - starts)
    return F.cross_entropy(logits, wanted, reduction="sum"), len(wanted), int(right.sum()), int(whole.sum()), len(last)


class Talking:
    """A phase on conversations: what is trained, how, and how far."""

    def __init__(self, model: ChatModel, heads: Heads, style: PromptFormat, phase: Phase, pair: Pair = ALONE) -> None:
        self.model, self.heads, self.style, self.phase, self.step = model, heads, style, phase, 0
        self.pair, self.ending = pair, False
        self.context = style.tokenizer.token_id(IMAGE_CONTEXT)
        self.modules: list[torch.nn.Module] = [model, heads] if phase.joint else [model.language_model]
        self.optimisers = optimisers(self.modules, *phase.rates)
        self.average = Average(self.all)
        self.pool = Pool()

    @property
    def all(self) -> torch.nn.Module:
        """The whole model and the heads."""
        return torch.nn.ModuleList([self.model, self.heads])

    @property
    def whole(self) -> bool:
        """Say whether every token of a picture is there by now."""
        return self.step >= self.phase.whole_after * self.phase.steps

    def trained(self) -> list[torch.nn.Parameter]:
        """Return what this phase changes."""
        return [p for m in self.modules for p in m.parameters()]

    def fill(self) -> None:
        """Fill the pool as it stood before this step."""
        for step in range(max(-60, self.step - 200), self.step):
            self.refresh(step)

    def refresh(self, step: int) -> None:
        """Show the tower the new tiles of this step; a few blanks and thumbnails last for long."""
        sorts = (4, 3, 1, 1) if step % 8 == 0 else (4, 3, 0, 0)
        refresh(self.pool, self.model, seeds.train(self.phase.number, 0, step + 60, self.pair.rank), sorts)

    def advance(self, *, ending: bool = False) -> dict[str, float]:
        """Take one step over every sort of conversation at once."""
        set_rate(self.optimisers, self.phase.rates, rate(self.phase, self.step))
        found = self.joint() if self.phase.joint else self.frozen()
        state.sound(sum(found.values()))
        self.ending = self.pair.average(self.trained(), ending=ending)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.follow(self.all)
        self.step += 1
        return found

    def frozen(self) -> dict[str, float]:
        """Learn from the pool."""
        self.refresh(self.step)
        rng = seeds.train(self.phase.number, 1, self.step, self.pair.rank)
        groups = rows(rng, self.pool, self.style, WHOLE_ROWS if self.whole else ROWS, 0.0 if self.whole else 0.85)
        return self.learn(groups, ("one", "two", "page"))

    def learn(self, groups: list[list[Row]], names: tuple[str, ...]) -> dict[str, float]:
        """Add up the gradients of all answers, every answer token weighing the same in its group."""
        found: dict[str, float] = {}
        for name, group in zip(names, groups, strict=True):
            loss, tokens, right, whole, answers = answer_loss(self.model, pack(group), self.context)
            (loss / tokens).backward(retain_graph=self.phase.joint)  # type: ignore[no-untyped-call]
            found |= {
                f"{name}.loss": loss.item() / tokens,
                f"{name}.token": right / tokens,
                f"{name}.whole": whole / answers,
            }
        return found

    def joint(self) -> dict[str, float]:
        """Learn through the tower, from thinned pictures and in the end from whole ones."""
        rng = seeds.train(self.phase.number, 1, self.step, self.pair.rank)
        scenes = [scene for sort in fresh_scenes(rng, JOINT_SCENES) for scene in sort]
        cells = 0 if self.whole else BUSY_CELLS
        kind = Kind("whole", GRID, GRID, len(scenes), cells)
        data = of_scenes(scenes, np.zeros((len(scenes), 2), np.int64), kind, rng)
        kept = torch.from_numpy(data.cells) if data.cells is not None else torch.arange(GRID**2).expand(len(scenes), -1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pixels = normalise(torch.from_numpy(data.pictures))
            patches, tokens = self.model.see(pixels, None, kept if cells else None)
            logits = self.heads(patches, tokens)
        dense = (
            dense_loss(logits[0], torch.from_numpy(data.patches), PATCH_WEIGHTS)[0]
            + dense_loss(logits[1], torch.from_numpy(data.tokens), TOKEN_WEIGHTS)[0]
        )
        leaves = tokens.detach().requires_grad_()
        found = self.learn_live(rng, scenes, leaves, kept)
        torch.autograd.backward([tokens, dense], [leaves.grad, torch.tensor(0.1)])
        return found | {"dense": dense.item()}

    def learn_live(self, rng: Rng, scenes: list[Scene], leaves: Tensor, kept: Tensor) -> dict[str, float]:
        """Ask about the scenes of this step, of which the tokens `kept` were seen; gradients end in `leaves`."""
        places = kept[:, :, None].expand(-1, -1, leaves.shape[-1])
        features = torch.zeros(len(scenes), GRID**2, leaves.shape[-1], dtype=leaves.dtype).scatter(1, places, leaves)
        seen = torch.zeros(len(scenes), GRID**2, dtype=torch.bool).scatter(1, kept, value=True)
        left = iter([Tile(scene, features[i], seen[i]) for i, scene in enumerate(scenes)])
        pool = Pool()
        for tiles, count in zip((pool.drawings, pool.lines, pool.blanks, pool.small), JOINT_SCENES, strict=True):
            tiles.extend(islice(left, count))
        thinned = 0.0 if self.whole else 1.0
        return self.learn(rows(rng, pool, self.style, JOINT_ROWS, thinned), ("one", "two", "page"))

    def state(self) -> dict[str, Any]:
        """Return all that the phase needs to go on."""
        return {
            "phase": self.phase.number,
            "step": self.step,
            "average": self.average.weights,
            "seen": self.average.seen,
            "weights": self.all.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`."""
        self.step, self.average.weights, self.average.seen = saved["step"], saved["average"], saved["seen"]
        self.all.load_state_dict(saved["weights"])
        for optimiser, content in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(content)


def run(model: ChatModel, phase: Phase, saved: dict[str, Any], clock: state.Clock, pair: Pair) -> bool:
    """Train through `phase`; return False when interrupted. The averaged weights end in `model`."""
    heads = Heads(model.sizes)
    talking = Talking(model, heads, style(state.OUT / "tokenizer"), phase, pair)
    if saved["phase"] == phase.number:
        talking.resume(saved)
    elif saved["phase"] == 2:  # the dense phases know no decoder
        torch.nn.ModuleList([model.vision_model, model.mlp1, heads]).load_state_dict(saved["average"])
        talking.average = Average(talking.all)
    else:
        talking.all.load_state_dict(saved["average"])
        talking.average = Average(talking.all)
    if not phase.joint:
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
    talking.all.load_state_dict(talking.average.weights)
    return True

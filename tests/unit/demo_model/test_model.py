"""The model as it is trained is the model as it is served."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.demo_model import dense_trainer as dense
from infra.demo_model import feature_cache as pool
from infra.demo_model import seeds, vocabulary
from infra.demo_model import training_checkpoint as state
from infra.demo_model.attention_supervision import truth
from infra.demo_model.conversations import about_one, about_page, draw
from infra.demo_model.dense_batches import Kind, batch
from infra.demo_model.dense_targets import targets
from infra.demo_model.evaluate import Asker
from infra.demo_model.export import export
from infra.demo_model.heads import Heads
from infra.demo_model.initialisation import shift, waves
from infra.demo_model.model import ChatModel, Sizes, attend, normalise, pixel_shuffle
from infra.demo_model.optim import orthogonal
from infra.demo_model.packing import SILENT, Row, pack, row
from infra.demo_model.prompt_format import style
from infra.demo_model.scenes import page_scene
from workers.vision.prompts import IMAGE_CONTEXT

SMALL = Sizes(vision_layers=2, layers=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.write(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> ChatModel:
    torch.manual_seed(0)
    small = ChatModel(SMALL, vocabulary.write(tokenizer))
    dense.start(small)
    return small


def logits(model: ChatModel, rows: list[Row], context: int) -> list[torch.Tensor]:
    packed = pack(rows, context)
    with torch.no_grad():
        x = model.language_model.model.tok_embeddings(packed.ids)
        x = x.masked_scatter((packed.ids == context)[..., None], packed.features)
        hidden = model.language_model(x, packed.positions, packed.allowed)
        return list(model.language_model.output(hidden[packed.wanted != SILENT]))


@pytest.mark.parametrize(
    "text", ["\nHow many red shapes are there in the second picture?", "\nTOTAL 的数值是多少？", "Grüße 你好 x"]
)
def test_text_comes_back_from_its_ids(tokenizer: Path, text: str) -> None:
    made = style(tokenizer).tokenizer
    assert made.decode(made.encode_text(text)) == text


def test_a_number_is_one_token_for_each_digit(tokenizer: Path) -> None:
    assert len(style(tokenizer).tokenizer.encode_text("480213")) == 6


def test_packed_conversations_compute_what_each_would_alone(tokenizer: Path, model: ChatModel) -> None:
    spoken = style(tokenizer)
    scene = draw(seeds.check(20))
    talks = [about_one(seeds.check(21, n), scene, 1 + n % 2) for n in range(3)]
    features = torch.randn(196, SMALL.width)

    def packed(some: list[int]) -> Row:
        rng = np.random.default_rng(3)
        made = row(spoken, [talks[i] for i in some], [1], features, seen=[truth(targets(scene))], keep=None, rng=rng)
        cut = made.parts.index(1)
        made.positions = [
            p if part == 0 else cut + sum(q == part for q in made.parts[:i])
            for i, (p, part) in enumerate(zip(made.positions, made.parts, strict=True))
        ]
        return made

    context = spoken.tokenizer.token_id(IMAGE_CONTEXT)
    together = logits(model, [packed([0, 1, 2])], context)
    alone = [x for i in range(3) for x in logits(model, [packed([i])], context)]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_pixel_shuffle_joins_the_four_neighbours_of_a_token() -> None:
    patches = torch.arange(4 * 6).float().view(1, 24, 1)
    assert pixel_shuffle(patches, 4, 6)[0, 1].tolist() == [2, 3, 8, 9]


def test_positions_match_at_their_offset_and_nowhere_near() -> None:
    line = waves(torch.arange(28).float())
    scores = line @ (shift(-2) @ line.T)
    assert all(abs(float(scores[i + 2 - 4, i]) - 8) < 1e-4 for i in range(2, 28))
    assert float((scores[:, 10] - 8 * (torch.arange(28) == 8)).abs()[:24].max()) < 1e-3


def test_the_fused_kernel_attends_as_attention_written_out_does() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 3, 5, 8), torch.randn(2, 2, 1, 5, 8), torch.randn(2, 2, 1, 5, 8)
    bias = torch.zeros(2, 1, 1, 5, 5).masked_fill(torch.rand(2, 1, 1, 5, 5) < 0.4, -1e4)
    written = ((q * 8**-0.5) @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, bias), written)


def test_orthogonal_keeps_directions_and_levels_their_lengths() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonal(torch.randn(1, 64, 64))[0])
    assert 0.6 < float(singular.quantile(0.05)) < float(singular.max()) < 1.3


def test_the_served_model_says_what_the_trained_one_says(tmp_path: Path, tokenizer: Path) -> None:
    torch.manual_seed(0)
    whole = ChatModel(Sizes(), vocabulary.write(tokenizer))
    dense.start(whole)
    whole.load_state_dict({k: v.half().float() for k, v in whole.state_dict().items()})
    saved = {"phase": 3, "step": 0, "average": torch.nn.ModuleList([whole, Heads(whole.sizes)]).state_dict()}
    export(saved, tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 15_000_000
    asker = Asker(tmp_path, "float32")
    page = page_scene(seeds.check(30))
    talk = about_page(seeds.check(30), page, 1)
    served = asker.answer([page.picture], talk, 12)
    tiles = asker.tiles(page.picture, 12)
    asker.engine.close()
    with torch.no_grad():
        features = whole.see(normalise(torch.from_numpy(tiles)))[1].flatten(0, 1)
    seen = [torch.zeros(len(features), 17, dtype=torch.int8)]
    made = row(asker.style, [talk], [len(tiles)], features, seen=seen, keep=None, rng=np.random.default_rng(3))
    first = made.wanted.index(next(w for w in made.wanted if w != SILENT))
    made = Row(
        made.ids[: first + 1],
        list(range(first + 1)),
        made.parts[: first + 1],
        made.wanted[: first + 1],
        features,
        made.looks[:1],
    )
    token = int(logits(whole, [made], asker.style.tokenizer.token_id(IMAGE_CONTEXT))[0].argmax())
    assert served.startswith(asker.style.tokenizer.decode([token]).strip())


def test_training_goes_on_from_its_state_as_if_never_interrupted() -> None:
    phase = dense.Phase(1, "crops", ((1.0, (Kind("number", 9, 3, 2),)),), 10, (0.02, 2e-3), 0.25)

    def make() -> dense.Dense:
        torch.manual_seed(0)
        small = ChatModel(SMALL, 300)
        dense.start(small)
        return dense.Dense(small, Heads(SMALL), phase)

    straight, halted = make(), make()
    for _ in range(2):
        straight.advance()
    halted.advance()
    resumed = make()
    resumed.resume(halted.state())
    assert straight.advance()[0] == pytest.approx((resumed.advance(), resumed.advance())[1][0], rel=1e-3)


def test_a_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "OUT", tmp_path)
    assert state.load("x.pt") is None
    state.save("x.pt", {"step": 1})
    state.save("x.pt", {"step": 2})
    assert state.load("x.pt") == {"step": 2}
    assert [f.name for f in tmp_path.iterdir()] == ["x.pt"]


def test_a_page_put_together_of_tiles_has_the_fields_of_a_page(model: ChatModel) -> None:
    tiles = pool.Pool()
    for step in range(2):
        pool.refresh(tiles, model, seeds.check(40, step), (4, 7, 1, 1))
    page, chosen = pool.compose(tiles, seeds.check(41))
    assert len(chosen) == 7
    assert 3 <= len(page.fields) <= 6
    assert sum(len(t.scene.fields) for t in chosen[:6]) == len(page.fields)


def test_new_drawings_are_crowds_as_often_as_asked(model: ChatModel) -> None:
    mixed, crowded = pool.Pool(), pool.Pool()
    pool.refresh(mixed, model, seeds.check(42), (9, 0, 0, 0))
    pool.refresh(crowded, model, seeds.check(42), (9, 0, 0, 0), crowds=1.0)
    assert any(t.scene.number for t in mixed.drawings)
    assert not any(t.scene.number for t in crowded.drawings)


def test_a_thinned_tile_keeps_what_stands_on_it_and_looks_at_nothing_else(model: ChatModel) -> None:
    whole, thin = (batch(Kind("whole", 14, 14, 3, cells=cells), seeds.check(50)) for cells in (0, 120))
    assert thin.cells is not None
    assert (thin.patches > 0).sum() == (whole.patches > 0).sum()
    assert (thin.tokens > 0).sum() == (whole.tokens > 0).sum()
    assert np.array_equal(thin.tokens, np.take_along_axis(whole.tokens, thin.cells[:, :, None], 1))
    pixels, cells = normalise(torch.from_numpy(thin.pictures)), torch.from_numpy(thin.cells)
    painted = pixels.clone()
    for i, kept in enumerate(thin.cells):
        for cell in set(range(196)) - set(kept.tolist()):
            row, column = divmod(cell, 14)
            painted[i, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 9
    with torch.no_grad():
        seen, same = (model.see(x, None, cells) for x in (pixels, painted))
    assert seen[0].shape[1] == 480
    assert seen[1].shape[1] == 120
    torch.testing.assert_close(seen, same)


def test_keeping_every_token_is_looking_at_the_whole_tile(model: ChatModel) -> None:
    pixels = normalise(torch.from_numpy(batch(Kind("whole", 14, 14, 1), seeds.check(51)).pictures))
    with torch.no_grad():
        whole, kept = model.see(pixels)[1], model.see(pixels, None, torch.arange(196)[None])[1]
    torch.testing.assert_close(whole, kept, rtol=1e-3, atol=1e-4)

"""Training goes on from kept progress where its own state is lost."""

from pathlib import Path

import pytest
import torch

from infra.demo_model import dense, export
from infra.demo_model.heads import Heads
from infra.demo_model.model import ChatModel, Sizes


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(export, "PROGRESS", tmp_path / "progress.safetensors")
    monkeypatch.setattr(export, "BUNDLED", tmp_path / "nothing")
    return tmp_path / "progress.safetensors"


def trained() -> dense.Dense:
    model = ChatModel(Sizes(), 200)
    return dense.Dense(model, Heads(model.sizes), dense.PHASES[0])


def test_the_tower_and_its_step_come_back_and_the_decoder_is_not_kept(kept: Path) -> None:
    before, after = trained(), trained()
    before.step = 123
    saved = before.state()
    export.keep_progress(saved)
    assert kept.stat().st_size < 15 << 20
    restored = export.restore()
    assert restored is not None
    assert not any(name.startswith("0.language_model.") for name in restored["average"])
    after.resume(restored)
    assert after.step == 123
    for name, weight in restored["average"].items():
        assert torch.equal(after.trained.state_dict()[name], weight)
        torch.testing.assert_close(weight, saved["average"][name], rtol=1e-3, atol=1e-3)


def test_without_anything_kept_training_begins_anew(kept: Path) -> None:
    assert not kept.exists()
    assert export.restore() is None

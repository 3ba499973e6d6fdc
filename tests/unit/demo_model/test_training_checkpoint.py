"""The training state is saved whole, or not at all."""

from pathlib import Path

import pytest

from infra.demo_model import training_checkpoint


def test_a_saved_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_checkpoint, "OUTPUT_FOLDER", tmp_path)
    assert training_checkpoint.load() is None
    training_checkpoint.save({"step": 1})
    training_checkpoint.save({"step": 2})
    assert training_checkpoint.load() == {"step": 2}
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]

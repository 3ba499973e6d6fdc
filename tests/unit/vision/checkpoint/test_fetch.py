"""A name that leads to no checkpoint says why."""

from pathlib import Path

import pytest

from workers.vision.checkpoint.fetch import locate
from workers.vision.checkpoint.fields import CheckpointError


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/nowhere/at/all", "no such folder, and neither"),
        ("OpenGVLab/Mini-InternVL-Chat-2B-V1-5", "named with its revision"),
        ("s3://bucket/prefix", "no S3 server"),
    ],
)
def test_a_model_that_can_not_be_found_says_why(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        locate(name)


def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"org/name@abc: not in the local cache"):
        locate("org/name@abc")

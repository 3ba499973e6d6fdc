"""Damaged files of every format end in tiles or in a refusal, and the harness that says so would notice otherwise."""

from pathlib import Path

import pytest
from PIL import Image

from tests.encoded import encoded
from tests.fuzz.run import Report, Trial, fuzz
from tests.integration.vision.cases import decoder_pool
from workers.vision.images.decoder_pool import DecoderPool, DecoderUnavailable, TiledImage


def test_a_short_run_violates_nothing(tmp_path: Path) -> None:
    report = fuzz(400, seed=3, processes=1, keep=tmp_path, say=lambda _: None)
    assert report.violations == []
    assert report.lost_decoders == 0
    assert len(report.outcomes) == 3  # some were decoded, some refused by intake, some by the decoder
    assert sum(report.outcomes.values()) == 400


class DeadDecoders(DecoderPool):
    def __init__(self) -> None:
        """No processes."""

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        raise DecoderUnavailable("the decoder process ended with signal 11 (SIGSEGV)")


def test_a_file_that_kills_a_decoder_is_kept_and_counted(tmp_path: Path) -> None:
    report, data = Report(), encoded(Image.new("RGB", (9, 9)))
    Trial(DeadDecoders(), report, tmp_path).run(("png RGB", data))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [data]
    assert "SIGSEGV" in report.violations[0]


def test_tiles_of_another_shape_than_the_grids_are_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with decoder_pool() as decoders:
        whole = decoders.tile(encoded(Image.new("RGB", (9, 9))), 1, thumbnail=False)
        short = TiledImage(whole.tiles[:0], whole.grid, whole.width, whole.height)
        monkeypatch.setattr(decoders, "tile", lambda *_, **__: short)
        report = Report()
        Trial(decoders, report, tmp_path).run(("png RGB", encoded(Image.new("RGB", (9, 9)))))
    assert "tiles of shape (0, 448, 448, 3)" in report.violations[0]


def test_memory_that_grows_after_the_warm_up_is_seen() -> None:
    report = Report(memory_bytes=[10, 50, 50, 50, 60])
    assert report.growth_bytes == 10

"""The compiled resize gives Pillow's bytes for any size, and Pillow resizes where there is none."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from workers.vision import compiler
from workers.vision.compiler import X86_64_V3, CompilerUnavailable, compile_library
from workers.vision.images import resampler
from workers.vision.images.decode import plan_tiles, write_tiles
from workers.vision.images.decoder_process import load_resampler
from workers.vision.images.resampler import (
    FLAGS,
    SOURCE,
    Resampler,
    library,
    library_or_none,
    resize_with_pillow,
)

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")
Size = tuple[int, int]
SIDES = st.sampled_from((28, 50, 56))


@pytest.fixture
def no_library() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    side=SIDES,
    seed=st.integers(0, 100),
)
def test_tiles_of_any_size_are_pillows_bytes(size: Size, grid: Size, side: int, seed: int) -> None:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found, expected = (np.empty((grid[0] * grid[1], side, side, 3), np.uint8) for _ in range(2))
    Resampler(library()).resize(pixels, grid, found)
    resize_with_pillow(Image.fromarray(pixels), grid, expected)
    assert (found == expected).all()


@needs_compiler
@pytest.mark.parametrize("size", [(640, 360), (360, 900), (120, 90)])
@pytest.mark.parametrize("thumbnail", [True, False])
def test_grid_and_thumbnail_are_the_same_with_and_without_it(size: tuple[int, int], thumbnail: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    plan = plan_tiles(Image.fromarray(pixels), 12, thumbnail, 56)
    fast, slow = (
        write_tiles(plan, 56, lambda count: memoryview(bytearray(count)), one) for one in (Resampler(library()), None)
    )
    assert len(fast) == plan.tiles
    assert (fast == slow).all()


@needs_compiler
def test_a_library_that_differs_from_pillow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(image: Image.Image, grid: tuple[int, int], tiles: NDArray[np.uint8]) -> None:
        resize_with_pillow(image, grid, tiles)
        tiles[0, 0, 0, 0] ^= 1

    monkeypatch.setattr(resampler, "resize_with_pillow", brighter)
    found, problem = load_resampler(library())
    assert found is None
    assert "differ for 101x67" in problem


@needs_compiler
def test_tiles_of_another_number_than_the_grid_has_are_refused() -> None:
    with pytest.raises(ValueError, match="must be contiguous, and 2 tiles, not 3"):
        Resampler(library()).resize(np.zeros((9, 9, 3), np.uint8), (2, 1), np.zeros((3, 28, 28, 3), np.uint8))


@needs_compiler
@pytest.mark.usefixtures("no_library")
def test_where_no_compiler_is_the_library_of_the_image_is_taken_if_the_processor_runs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prebuilt, processor = tmp_path / "resample.so", tmp_path / "cpuinfo"
    prebuilt.write_bytes(compile_library((SOURCE,), FLAGS))
    monkeypatch.setenv("CC", "/no/such/compiler")
    monkeypatch.setattr(resampler, "PREBUILT", prebuilt)
    monkeypatch.setattr(compiler, "CPU_INFO", processor)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    processor.write_text("processor\t: 0\nflags\t\t: fpu avx sse4_2\nbugs\t: none\n")
    with pytest.raises(CompilerUnavailable):
        library()
    processor.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(X86_64_V3)}\nbugs\t: none\n")
    Resampler(library())


@pytest.mark.usefixtures("no_library")
def test_without_a_compiler_there_is_none_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    with pytest.raises(CompilerUnavailable, match="/no/such/compiler"):
        library()
    assert library_or_none() is None
    assert "/no/such/compiler" in caplog.text
    assert load_resampler(None) == (None, "it was not compiled")

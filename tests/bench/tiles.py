"""`make bench-tiles`: from the bytes of an image to tiles ready for the device, beside the model card's code.

The card's side is `load_image` of the model card, but for torchvision, of which there is no CPU build: its `ToTensor`
and `Normalize` are written with torch and compute the same floats. Its end is the bfloat16 tensor on the CPU, ours are
the uint8 tiles that the device normalises. Both sides run in turn in as many processes as are named, each with one
thread, so a figure is what those cores yield together; ours are the worker's decoder processes with all they copy.

The last table serves jobs by the whole worker (threads, decoders, storage and store in memory) with an engine that does
nothing but take the time of an H200, and tells for how much of the time that device had no tiles to work on.
"""

import argparse
import io
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import PIL
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image

from shared.images import ImageLimits
from shared.settings.roles import Settings
from shared.tiling import grid, tile_count
from tests.bench.figures import at_least, at_most
from tests.bench.simulated_device import serve
from workers.vision.bench.goals import JOBS_PER_SECOND
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool

SIZES = ((3840, 2400, 40), (1920, 1440, 12), (1280, 960, 6))  #: width, height, most tiles
SIDE = 448
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(width: int, height: int) -> bytes:
    """A JPEG with soft shapes and the noise of a camera."""
    drawn = np.random.default_rng(0)
    shapes = Image.fromarray(drawn.integers(0, 256, (height // 8, width // 8, 3), np.uint8)).resize((width, height))
    noise = drawn.normal(0, 4, (height, width, 1))
    pixels = np.clip(np.asarray(shapes, np.float32) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def card_tiles(data: bytes, most: int) -> list[Image.Image]:
    """`dynamic_preprocess` of the card, with the grid that it finds."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    columns, rows = grid(*image.size, most)
    resized = image.resize((SIDE * columns, SIDE * rows))
    tiles = []
    for i in range(columns * rows):
        left, top = i % columns * SIDE, i // columns * SIDE
        tiles.append(resized.crop((left, top, left + SIDE, top + SIDE)))
    if len(tiles) != 1:
        tiles.append(image.resize((SIDE, SIDE)))
    return tiles


def card_pixels(tile: Image.Image) -> torch.Tensor:
    """`T.Resize`, `T.ToTensor` and `T.Normalize` as torchvision computes them."""
    resized = tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


def card(data: bytes, most: int) -> int:
    """`load_image` of the card; returns the number of tiles."""
    return len(torch.stack([card_pixels(tile) for tile in card_tiles(data, most)]).to(torch.bfloat16))


def same_bytes(data: bytes, most: int, tiles: NDArray[np.uint8]) -> bool:
    """Whether `tiles` are the card's."""
    return bool((np.stack([np.asarray(tile) for tile in card_tiles(data, most)]) == tiles).all())


def images_per_second(pool: Executor, work: Callable[[], object], images: int) -> float:
    """The throughput of `pool`."""
    began = time.perf_counter()
    for future in [pool.submit(work) for _ in range(images)]:
        future.result()
    return images / (time.perf_counter() - began)


def compare(processes: int, rounds: int, images: int) -> Iterator[str]:
    """Rows of the first table: both sides in turn, the best round of each."""
    options = DecoderOptions(ImageLimits.of(Settings()))
    spawned = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    with DecoderPool(processes, options) as decoders, ThreadPoolExecutor(processes) as threads, spawned:
        for width, height, most in SIZES:
            data = photo(width, height)
            ours = partial(decoders.tile, data, most, True)
            theirs = partial(card, data, most)
            exact = same_bytes(data, most, ours().tiles)
            best = [0.0, 0.0]
            for _ in range(rounds + 1):  # the first warms up
                found = images_per_second(spawned, theirs, images), images_per_second(threads, ours, images)
                best = [max(one, other) for one, other in zip(best, found, strict=True)]
            count = len(ours().tiles)
            if processes == os.cpu_count():
                at_least(f"{width}x{height} to {count} tiles, beside the card's code", best[1] / best[0], 2)
            yield (
                f"| {width}x{height}, {len(data) / 1e6:.1f} MB, {count} tiles | {processes} | {best[0]:.1f} | "
                f"{best[1]:.1f} | {best[1] / best[0]:.2f} | {'yes' if exact else 'NO'} |"
            )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, nargs="+", default=list(range(1, (os.cpu_count() or 1) + 1)))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=16)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Pillow {PIL.__version__}, load {os.getloadavg()[0]:.1f}\n")
    print("| JPEG | processes | card: images/s | tileq: images/s | ratio | same bytes |\n|---|---|---|---|---|---|")
    for processes in chosen.processes:
        for row in compare(processes, chosen.rounds, chosen.images):
            print(row, flush=True)
    print("\n| JPEG | tiles | device wants: jobs/s | served: jobs/s | of its time it waits for tiles |")
    print("|---|---|---|---|---|")
    for width, height, most in (*SIZES, (448, 448, 1)):
        wanted = JOBS_PER_SECOND[tile_count(grid(width, height, most), True)]
        jobs = max(24, int(5 * wanted))
        found = serve(photo(width, height), (width, height), most, decoders=max(chosen.processes), jobs=jobs)
        at_most(f"simulated H200 waits for {found.tiles} tiles of a job", 100 * found.share_waited, 5, "% of its time")
        print(
            f"| {width}x{height} | {found.tiles} | {wanted:g} | {found.jobs_per_second:.1f} | "
            f"{100 * found.share_waited:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()

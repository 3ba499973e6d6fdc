"""One run: every file goes through intake's header check and the decoder pool, and what may not happen is kept."""

import hashlib
import io
import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import REGISTRY

from services.intake.submission.image_headers import inspect
from shared.errors import RequestError
from shared.images import ImageLimits
from shared.imaging.opening import configure_pillow
from shared.tiling import TILE
from tests.fuzz.corpus import corpus
from tests.fuzz.mutations import mutate
from workers.vision.images.decode import DecodeError
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool, TiledImage

LIMITS = ImageLimits(max_pixels=4_000_000, max_side=8192, max_missing_rows=0.1, mode="natural")
MAX_TILES = 2
BATCH = 200  #: files between two readings of the memory
#: Share of the run after which caches and allocators have what they want, and memory is to stay where it is.
WARM_UP = 0.25
MAX_GROWTH_BYTES = 64 << 20
#: What ends a file: tiles, the decoder's refusal, or intake's, which the worker never sees.
DECODED, REFUSED_BY_DECODER, REFUSED_BY_INTAKE = "decoded", "refused by the decoder", "refused by intake"


@dataclass
class Report:
    """What became of the files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)  #: of all decoder processes together, after each batch
    lost_decoders: int = 0

    @property
    def growth_bytes(self) -> int:
        """From the end of the warm-up to the end."""
        start = int(WARM_UP * len(self.memory_bytes))
        return self.memory_bytes[-1] - self.memory_bytes[start] if self.memory_bytes else 0

    @property
    def line(self) -> str:
        """The last line of the report."""
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(self.outcomes.items()))
        return (
            f"fuzz: files {sum(self.outcomes.values())} ({told}) violations {len(self.violations)} "
            f"decoders lost {self.lost_decoders} memory growth {self.growth_bytes / (1 << 20):.1f} MiB"
        )


def fuzz(files: int, seed: int, processes: int, keep: Path, say: Callable[[str], None]) -> Report:
    """Try `files` damaged files drawn from `seed`; those that violate something are written to `keep`."""
    configure_pillow(LIMITS)
    report, draw, originals = Report(), random.Random(seed), corpus()
    lost_before = _lost()
    with DecoderPool(processes, DecoderOptions(LIMITS)) as decoders, ThreadPoolExecutor(processes) as threads:
        trial = Trial(decoders, report, keep)
        for start in range(0, files, BATCH):
            list(threads.map(trial.run, _drawn(draw, originals, min(BATCH, files - start))))
            report.memory_bytes.append(_memory_bytes())
            if start % (10 * BATCH) == 0:
                memory = report.memory_bytes[-1] >> 20
                say(f"{start + BATCH:>8} files, {memory} MiB, violations {len(report.violations)}")
    report.lost_decoders = _lost() - lost_before
    if report.growth_bytes > MAX_GROWTH_BYTES:
        report.violations.append(f"the decoder processes grew by {report.growth_bytes >> 20} MiB after the warm-up")
    return report


def _drawn(draw: random.Random, originals: dict[str, bytes], count: int) -> list[tuple[str, bytes]]:
    names = draw.choices(list(originals), k=count)
    return [(name, mutate(draw, originals[name], originals[draw.choice(list(originals))])) for name in names]


class Trial:
    """Tries one file after another, from several threads."""

    def __init__(self, decoders: DecoderPool, report: Report, keep: Path) -> None:
        self._decoders = decoders
        self._report = report
        self._keep = keep

    def run(self, file: tuple[str, bytes]) -> None:
        """Count the file's outcome, or keep the file and what went wrong."""
        name, data = file
        try:
            self._report.outcomes[self._outcome(data)] += 1
        except Exception as error:  # a lost decoder, a wrong shape: whatever it is, a job would have ended otherwise
            self._violation(name, data, error)

    def _outcome(self, data: bytes) -> str:
        try:
            inspect(io.BytesIO(data), len(data), LIMITS, 0)
        except RequestError as refusal:
            _assert_readable(refusal.detail)
            return REFUSED_BY_INTAKE
        try:
            tiled = self._decoders.tile(data, MAX_TILES, thumbnail=True)
        except DecodeError as refusal:
            _assert_readable(refusal.reason)
            return REFUSED_BY_DECODER
        _assert_whole(tiled)
        return DECODED

    def _violation(self, name: str, data: bytes, error: Exception) -> None:
        self._report.outcomes["violation"] += 1
        self._keep.mkdir(parents=True, exist_ok=True)
        kept = self._keep / f"{name.replace(' ', '-').replace(';', '')}-{hashlib.sha256(data).hexdigest()[:12]}"
        kept.write_bytes(data)
        self._report.violations.append(f"{kept}: {type(error).__name__}: {error}")


def _assert_readable(text: str) -> None:
    if not text.strip() or not text.isprintable():
        raise AssertionError(f"a refusal that nobody can read: {text!r}")


def _assert_whole(tiled: TiledImage) -> None:
    columns, rows = tiled.grid
    expected = columns * rows + (columns * rows > 1)
    if tiled.tiles.shape != (expected, TILE, TILE, 3):
        raise AssertionError(f"tiles of shape {tiled.tiles.shape} for a grid of {columns} x {rows}")


def _lost() -> int:
    return int(REGISTRY.get_sample_value("tileq_vision_decoders_lost_total") or 0)


def _memory_bytes() -> int:
    """Resident memory of this process's children."""
    found = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        if int(lines["PPid"]) == os.getpid() and "VmRSS" in lines:
            found += int(lines["VmRSS"].split()[0]) * 1024
    return found

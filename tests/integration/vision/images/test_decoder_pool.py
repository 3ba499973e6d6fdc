"""The decoder pool gives tiles or one clear refusal, and survives every input."""

import errno
import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.encoded import encoded
from tests.image_files import jpeg_of_many_scans
from tests.integration.vision.cases import decoder_pool
from tests.waiting import eventually
from workers.vision.images import decoder_pool as decoder_pool_module
from workers.vision.images import shared_file
from workers.vision.images.decode import DecodeError
from workers.vision.images.decoder_pool import DecoderPool, DecoderProcess, DecoderUnavailable

LIMIT = 2_000_000  # pixels


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with decoder_pool(max_pixels=LIMIT) as started:
        yield started


def corner(decoders: DecoderPool, image: bytes) -> tuple[int, ...]:
    """The first pixel of the one tile."""
    return tuple(int(value) for value in decoders.tile(image, 1, thumbnail=False).tiles[0, 0, 0])


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (40, 40), colour)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_of_the_list_is_taken(decoders: DecoderPool, kind: str) -> None:
    tiled = decoders.tile(encoded(Image.new("RGB", (640, 480), (200, 30, 30)), kind), 12, thumbnail=True)
    assert (tiled.grid, tiled.width, tiled.height) == ((4, 3), 640, 480)
    assert tiled.tiles.shape == (13, 448, 448, 3)
    assert tiled.tiles.flags.c_contiguous
    assert abs(int(tiled.tiles[0, 0, 0, 0]) - 200) < 6


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "PDF", "EPS"])
def test_any_other_format_is_refused(decoders: DecoderPool, kind: str) -> None:
    with pytest.raises(DecodeError, match="not a complete image of an accepted format"):
        decoders.tile(encoded(flat("RGB", "red"), kind), 12, thumbnail=True)


def turned() -> bytes:
    image, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


def test_exif_turns_an_image(decoders: DecoderPool) -> None:
    tiled = decoders.tile(turned(), 12, thumbnail=True)
    assert (tiled.width, tiled.height) == (20, 40)


def test_what_is_transparent_lies_over_white(decoders: DecoderPool) -> None:
    assert corner(decoders, encoded(flat("RGBA", (10, 20, 30, 0)))) == (255, 255, 255)
    assert corner(decoders, encoded(flat("LA", (10, 0)))) == (255, 255, 255)
    palette = flat("RGB", "red").quantize(2)
    assert corner(decoders, encoded(palette)) == (255, 0, 0)
    assert corner(decoders, encoded(palette, transparency=0)) == (255, 255, 255)
    assert corner(decoders, encoded(flat("RGBA", (10, 20, 30, 255)))) == (10, 20, 30)


def test_sixteen_bits_are_scaled_not_clipped(decoders: DecoderPool) -> None:
    grey = Image.fromarray(np.full((40, 40), 0x8080, np.uint16))
    assert corner(decoders, encoded(grey)) == corner(decoders, encoded(grey, "TIFF")) == (128, 128, 128)


def test_the_first_frame_is_shown(decoders: DecoderPool) -> None:
    frames = encoded(flat("RGB", "red"), "GIF", save_all=True, append_images=[flat("RGB", "blue")])
    assert corner(decoders, frames) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB"])
def test_other_colour_models_become_rgb(decoders: DecoderPool, mode: str) -> None:
    assert decoders.tile(encoded(flat(mode, 0), "TIFF"), 1, thumbnail=False).tiles.shape == (1, 448, 448, 3)


def test_original_mode_does_what_the_card_does() -> None:
    with decoder_pool("original") as original:
        assert original.tile(turned(), 12, thumbnail=True).width == 40
        assert corner(original, encoded(flat("RGBA", (10, 20, 30, 0)))) == (10, 20, 30)
        assert corner(original, encoded(Image.fromarray(np.full((40, 40), 0x8080, np.uint16)))) == (255, 255, 255)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and compresses to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes((width + 8) // 8 * height), 9))
        + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_by_its_pixels(decoders: DecoderPool) -> None:
    with pytest.raises(DecodeError, match="more than 2000000 pixels") as caught:
        decoders.tile(bomb(10_000, 10_000), 12, thumbnail=True)
    assert caught.value.code == "image_too_many_pixels"


BROKEN = (b"", b"\0", b"<svg/>", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n" + bytes(99), b"GIF89a" * 9)
GOOD = encoded(Image.new("RGB", (300, 200), "green"), "JPEG")


@pytest.mark.parametrize("data", [*BROKEN, GOOD[:100], GOOD[: len(GOOD) // 2]], ids=lambda data: repr(data[:8]))
def test_what_is_no_image_is_refused_for_good(decoders: DecoderPool, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decoders.tile(data, 12, thumbnail=True)
    assert caught.value.code == "undecodable_image"
    assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_flipped_bytes_cost_an_image_at_most(decoders: DecoderPool) -> None:
    rng = np.random.default_rng(7)
    refused = 0
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"):
        whole = encoded(Image.effect_noise((90, 60), 60).convert("RGB"), kind)
        for _ in range(20):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 6):
                damaged[place] = int(rng.integers(0, 256))
            try:
                decoders.tile(bytes(damaged), 2, thumbnail=True)
            except DecodeError:
                refused += 1
    assert 0 < refused < 120
    assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def process_of(decoders: DecoderPool) -> int:
    decoder = decoders._idle.queue[-1]
    assert decoder is not None
    return decoder._process.pid


def test_too_little_memory_is_not_the_images_fault() -> None:
    with decoder_pool(memory_bytes=40 << 20) as small:
        with pytest.raises(DecoderUnavailable, match="TILEQ_DECODE_MEMORY=41943040") as caught:
            small.tile(bomb(7_000, 7_000), 40, thumbnail=True)
        assert caught.value.code == "out_of_memory"
        assert small.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_memory_counts_from_the_start_of_the_process() -> None:
    """Libraries map hundreds of megabytes on machines with many cores; they are not the image's."""
    with decoder_pool(memory_bytes=48 << 20) as small:
        assert small.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
def test_a_process_has_one_thread(decoders: DecoderPool, kind: str) -> None:
    decoders.tile(encoded(Image.effect_noise((1600, 1200), 60).convert("RGB"), kind), 12, thumbnail=True)
    status = Path(f"/proc/{process_of(decoders)}/status").read_text()
    assert "Threads:\t1\n" in status
    environment = Path(f"/proc/{process_of(decoders)}/environ").read_bytes()
    assert b"OPENBLAS_NUM_THREADS=1" in environment


def test_a_process_that_hangs_is_killed_and_the_machine_is_blamed() -> None:
    with decoder_pool(timeout_s=0.2) as hasty:
        hanging = process_of(hasty)
        os.kill(hanging, signal.SIGSTOP)
        with pytest.raises(DecoderUnavailable, match=r"did not end within 0\.6 s, .*overloaded"):
            hasty.tile(GOOD, 12, thumbnail=True)
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)


def test_processor_time_is_the_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts whole seconds from the start of the process: one is left after its start."""
    monkeypatch.setattr(decoder_pool_module, "MAX_WALL_FACTOR", 100_000)
    slow = jpeg_of_many_scans(Image.new("RGB", (1400, 1400), "red"), 20_000)
    with decoder_pool(timeout_s=0.001) as hasty, pytest.raises(DecodeError, match=r"0\.001 s of processor time"):
        hasty.tile(slow, 40, thumbnail=True)


def stop_then_kill(pid: int, number: int) -> None:
    """Make the next image meet a process that ends with this signal."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, [pid, number]).start()
    if number != signal.SIGKILL:
        threading.Timer(0.3, os.kill, [pid, signal.SIGCONT]).start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV, signal.SIGTERM])
def test_a_process_that_dies_at_work_costs_nothing(number: int) -> None:
    with decoder_pool() as decoders:
        stop_then_kill(process_of(decoders), number)
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, "out_of_memory"), (signal.SIGBUS, "out_of_memory"), (signal.SIGSEGV, "worker_lost")],
)
def test_processes_that_die_again_and_again_are_the_workers_fault(
    monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    with decoder_pool() as decoders:
        ask = DecoderProcess._ask

        def ask_and_kill(self: DecoderProcess, *arguments: Any) -> Any:
            stop_then_kill(self._process.pid, number)
            return ask(self, *arguments)

        monkeypatch.setattr(DecoderProcess, "_ask", ask_and_kill)
        with pytest.raises(DecoderUnavailable, match=f"ended with signal {number:d}") as caught:
            decoders.tile(GOOD, 12, thumbnail=True)
        assert caught.value.code == code
        monkeypatch.undo()
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def refuse(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_files_go_to_the_temporary_folder_where_memory_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_file, "_make_in_memory", refuse)
    with decoder_pool() as decoders:
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_room_nowhere_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoder_pool() as decoders:
        monkeypatch.setattr(shared_file, "_make_in_memory", refuse)
        monkeypatch.setattr(shared_file, "_make_in_temporary_folder", refuse)
        with pytest.raises(DecoderUnavailable, match=r"no room for \d+ bytes in memory .* nor in /") as caught:
            decoders.tile(GOOD, 12, thumbnail=True)
        assert caught.value.code == "out_of_memory"
        monkeypatch.undo()
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_a_process_that_can_not_be_started_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoder_pool() as decoders:
        os.kill(process_of(decoders), signal.SIGKILL)
        eventually(lambda: not decoders._idle.queue[-1].alive)  # type: ignore[union-attr]
        monkeypatch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(DecoderUnavailable, match="could not be started"):
            decoders.tile(GOOD, 12, thumbnail=True)
        monkeypatch.undo()
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_a_process_that_died_idle_costs_nothing() -> None:
    with decoder_pool() as decoders:
        os.kill(process_of(decoders), signal.SIGKILL)
        eventually(lambda: not decoders._idle.queue[-1].alive)  # type: ignore[union-attr]
        assert decoders.tile(GOOD, 12, thumbnail=True).grid == (3, 2)


def test_many_threads_share_the_processes() -> None:
    with decoder_pool(processes=2) as decoders, ThreadPoolExecutor(8) as threads:
        grids = threads.map(lambda _: decoders.tile(GOOD, 12, thumbnail=True).grid, range(40))
        assert set(grids) == {(3, 2)}


def test_nothing_is_left_behind() -> None:
    own = Path("/proc/self/fd")
    gc.collect()
    before = len(list(own.iterdir()))
    decoders = decoder_pool(processes=2)
    pids = [decoder._process.pid for decoder in decoders._idle.queue if decoder]
    decoders.tile(GOOD, 12, thumbnail=True)
    decoders.close()
    decoders.close()
    assert len(list(own.iterdir())) == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(DecoderUnavailable, match="closed"):
        decoders.tile(GOOD, 12, thumbnail=True)


def test_the_processes_know_no_secrets_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_S3_SECRET_KEY", "hush")
    with decoder_pool() as decoders:
        pid = process_of(decoders)
        assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_the_processes_go_with_their_parent() -> None:
    program = (
        "import os, signal; from shared.images import ImageLimits; "
        "from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool; "
        "pool = DecoderPool(1, DecoderOptions(ImageLimits(1, 1, 0, 'natural'))); "
        "print(pool._idle.queue[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pid = int(ended.stdout)
    eventually(lambda: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")


def test_a_process_whose_worker_is_killed_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_pool() as decoders:
        decoder = DecoderProcess(decoders._options)
        decoder._socket.close()  # as it does with the worker, before the process says that it is ready
        assert decoder._process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_what_libtiff_prints_about_a_file_does_not_enter_the_workers_log(capfd: pytest.CaptureFixture[str]) -> None:
    fax = bytearray(encoded(Image.effect_noise((64, 64), 90).convert("1"), "TIFF", compression="group4"))
    fax[48:68] = bytes(20)  # in the middle of the pixels, which begin at byte 8
    with decoder_pool() as pool:
        pool.tile(bytes(fax), 1, thumbnail=False)
    assert capfd.readouterr().err == ""

"""Memory and processor time of processes and their children, from /proc."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path


def family(pid: int) -> Iterator[int]:
    """`pid` and its children, as far as they live."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # the thread has ended
            continue
        for child in children:
            yield from family(int(child))


def pss_bytes(pid: int) -> int:
    """Memory of `pid` and its children: private pages whole, shared ones by their share."""
    return sum(_smaps_bytes(one, "Pss:") for one in family(pid))


def file_bytes(pid: int) -> int:
    """The part of `pss_bytes` that are pages of files, which the kernel drops when memory is short."""
    return sum(_smaps_bytes(one, "Pss_File:") for one in family(pid))


def processor_s(pid: int) -> float:
    """Processor seconds of `pid` and its living children since their start."""
    return sum(_processor_s(one) for one in family(pid))


def signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to `pid` and its children."""
    for one in list(family(pid)):
        os.kill(one, number)


def _smaps_bytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _processor_s(pid: int) -> float:
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

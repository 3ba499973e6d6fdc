"""C sources, compiled for this machine at the start, where there is a C compiler (`cc`, or what CC names).

Nothing is kept between starts, so there is no file that another user could have put there.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMPILE_TIMEOUT_S = 60
#: What x86-64-v3 has over v2 (System V ABI, AMD64 supplement), by the names of Linux.
X86_64_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})


class CompilerUnavailable(Exception):
    """A source can't be compiled here; the message says why."""


def compile_library(source: Path, flags: Sequence[str], library: Path) -> None:
    """Write `library`, the shared library of `source`. Raises `CompilerUnavailable`."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *flags, str(source), "-lm", "-o", str(library)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise CompilerUnavailable(error.stderr.decode(errors="replace").partition("\n")[0]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerUnavailable(str(error)) from error


def processor_flags(cpu_info: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the instruction sets of this processor by the names of Linux; none where they can't be read."""
    try:
        _, _, flags = cpu_info.read_text().partition("\nflags")
    except OSError:
        return set()
    return set(flags.partition("\n")[0].split())

"""C sources, compiled for this machine at the start, where there is a C compiler (`cc`, or what CC names).

The container images have none; they bring libraries for a few kinds of processor. A library is handed on as the
descriptor of memory that holds it: a temporary folder may forbid execution, and nothing is kept between starts, so
there is no file that another user could have put there.
"""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

COMPILE_TIMEOUT_S = 120  # a machine at full load gives the compiler a tenth of a core
CPU_INFO = Path("/proc/cpuinfo")
#: What x86-64-v3 has over v2 (System V ABI, AMD64 supplement), by the names of Linux.
X86_64_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})

Prebuilt = tuple[Path, frozenset[str]]  #: a library that may be there, and what of an x86-64 processor it needs


class CompilerUnavailable(RuntimeError):
    """A source can't be compiled here; the message says why."""


def compiled_library(sources: Sequence[Path], flags: Sequence[str], prebuilt: Sequence[Prebuilt]) -> int:
    """Return the descriptor of the shared library of `sources`, or of the first of `prebuilt` that runs here.

    Raises `CompilerUnavailable`.
    """
    try:
        library = compile_library(sources, flags)
    except CompilerUnavailable:
        fitting = (path for path, needed in prebuilt if path.exists() and _has(needed))
        if (path := next(fitting, None)) is None:
            raise
        library = path.read_bytes()
    descriptor = os.memfd_create("tileq-library")
    with os.fdopen(descriptor, "wb", closefd=False) as memory:
        memory.write(library)
    return descriptor


def compile_library(sources: Sequence[Path], flags: Sequence[str]) -> bytes:
    """Return the shared library of `sources`. Raises `CompilerUnavailable`."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with TemporaryDirectory(prefix="tileq-compiler-") as folder:
        library = Path(folder) / "library.so"
        command = [*compiler, *flags, "-shared", "-fPIC", *map(str, sources), "-lm", "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)  # noqa: S603
        except subprocess.CalledProcessError as error:
            raise CompilerUnavailable(error.stderr.decode(errors="replace").partition("\n")[0]) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerUnavailable(str(error)) from error
        return library.read_bytes()


def _has(needed: frozenset[str]) -> bool:
    """Whether this processor has what is needed, or is of another family, for which no more than its base is used."""
    return platform.machine() != "x86_64" or needed <= processor_flags()


def processor_flags() -> set[str]:
    """Return the instruction sets of this processor by the names of Linux; none where they can't be read."""
    try:
        _, _, flags = CPU_INFO.read_text().partition("\nflags")
    except OSError:
        return set()
    return set(flags.partition("\n")[0].split())

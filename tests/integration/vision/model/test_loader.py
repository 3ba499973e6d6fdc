"""Loading: pinned files, the device that was asked for, several devices, and memory that stays close to the weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.conversation import Message
from shared.settings.roles import Settings
from tests.integration.vision import cases
from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.checksums import compute_checksums
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.engine.base import Done, EngineRequest, Sampling
from workers.vision.engine.factory import make_engine
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.model import loader
from workers.vision.model.hf_model import parameter_name
from workers.vision.model.loader import LoadOptions, load, load_packed
from workers.vision.model.placement import Placement, connect, weight_bytes
from workers.vision.prompts import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("model") / "tileq-demo")


def test_pinned_files_load_and_others_do_not(folder: Path) -> None:
    digest, said = compute_checksums(folder).digest, list[str]()
    settings = Settings(model=str(folder), device="cpu", model_sha256=digest)
    make_engine(settings, said.append).engine.close()
    assert any(digest in line for line in said)
    with pytest.raises(CheckpointError, match="TILEQ_MODEL_SHA256 pins"):
        make_engine(settings.model_copy(update={"model_sha256": "0" * 64}), said.append)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced_by_a_cpu(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="to be cuda"):
        load(open_checkpoint(folder), LoadOptions("cuda"), lambda _: None)


def test_quantising_without_its_library_says_what_to_install(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(CheckpointError, match=r"int8 needs bitsandbytes: pip install 'tileq\[quant\]'"):
            load(open_checkpoint(folder), LoadOptions("cpu", "float32", "int8"), lambda _: None)


def test_quantising_tells_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "PROGRESS_INTERVAL_S", 0)
    said: list[str] = []
    load_packed(open_checkpoint(folder), LoadOptions("cpu", "bfloat16", "int4"), said.append)
    shares = [int(line.split()[1].rstrip("%")) for line in said if line.startswith("int4: ")]
    assert shares == sorted(shares)
    assert 50 < shares[-1] <= 100


def test_figures_of_a_placement_are_those_of_what_is_loaded(folder: Path) -> None:
    config = open_checkpoint(folder).config
    sizes = {parameter_name(name): size for name, size in weight_bytes(config, torch.bfloat16).items()}
    model = cases.stock_model(folder, torch.bfloat16)
    assert sizes == {name: parameter.nbytes for name, parameter in model.named_parameters()}


def test_a_model_on_several_devices_answers_the_same(folder: Path) -> None:
    """Devices are stood in for by the CPU: what is held is that every block gets what it needs through the hooks."""
    checkpoint = open_checkpoint(folder)
    said = []
    for blocks in (0, checkpoint.config.decoder.layers + 2):
        model = cases.stock_model(folder)
        if blocks:
            connect(model, Placement((torch.device("cpu", 0),) * blocks))
        engine = TransformersEngine(Loaded(model, checkpoint.config, checkpoint.tokenizer))
        prompt = build([Message(role="user", content="Who are you?")], [], checkpoint.prompt_format)
        nothing = np.zeros((0, 448, 448, 3), np.uint8)
        *_, done = engine.submit(EngineRequest("job", prompt, nothing, Sampling(max_new_tokens=8)))
        engine.close()
        assert isinstance(done, Done)
        said.append(done.text)
    assert said[0] == said[1]


MEASURE = """
import sys, time, torch
from pathlib import Path
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.model import loader
from workers.vision.model.hf_model import parameter_name
from workers.vision.model.loader import LoadOptions, load, load_packed

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

load(open_checkpoint(Path(sys.argv[1])), LoadOptions("cpu", "float32"), lambda _: None)  # what libraries take
Path("/proc/self/clear_refs").write_text("5")
before, began = peak(), time.perf_counter()
model = load(open_checkpoint(Path(sys.argv[2])), LoadOptions("cpu", sys.argv[3]), lambda _: None)
seconds = time.perf_counter() - began
size = sum(parameter.nbytes for parameter in model.parameters())
print(size, peak() - before, f"{seconds:.2f}")
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no way to measure a peak here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_peaks_close_to_the_size_of_the_weights(folder: Path, tmp_path: Path, dtype: str) -> None:
    """The pages of the file must not stay in the process beside their copies."""
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8}
    large = write_random(tmp_path / "large", decoder={**wide, "num_hidden_layers": 24, "vocab_size": 1450})
    command = [sys.executable, "-c", MEASURE, str(folder), str(large), dtype]
    measured = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    size, peak = int(measured[0]), int(measured[1])
    assert size > 90e6 * (1 if dtype == "float32" else 0.5)
    assert peak < 1.15 * size + (16 << 20), f"{peak / size:.2f} times the size"

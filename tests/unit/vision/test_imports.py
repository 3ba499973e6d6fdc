"""What each process of a vision worker leaves out, because it is memory that nothing of it uses."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("workers.vision.engine.assembly, workers.vision.model.loader", "transformers"),
        ("workers.vision.engine.assembly, workers.vision.model.loader", "torch._dynamo"),
        ("workers.vision.images.decoder_process", "pydantic"),
    ],
)
def test_a_process_does_not_load_what_it_never_uses(modules: str, absent: str) -> None:
    program = f"import sys, {modules}; print({absent!r} in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"

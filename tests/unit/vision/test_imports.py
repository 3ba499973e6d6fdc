"""What each process of a vision worker leaves out, because it is memory that nothing of it uses."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("workers.vision.engine.assembly, workers.vision.model.loader", "transformers"),
        ("workers.vision.images.decoder_process", "pydantic"),
    ],
)
def test_the_resident_engine_loads_no_transformers_and_a_decoder_no_settings(modules: str, absent: str) -> None:
    program = f"import sys, {modules}; print({absent!r} in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"

"""A thread that has computed can let its OpenMP threads go."""

import subprocess
import sys

SCRIPT = """
import os, time, torch
from workers.vision.model.openmp import release_threads
torch.set_num_threads(4)
torch.ones(4_000_000).exp()
before = len(os.listdir("/proc/self/task"))
assert release_threads()
deadline = time.monotonic() + 30
while len(os.listdir("/proc/self/task")) > before - 3 and time.monotonic() < deadline:
    time.sleep(0.01)
print(before - len(os.listdir("/proc/self/task")))
assert torch.ones(4_000_000).exp().isfinite().all()  # they come back
"""


def test_the_threads_of_a_thread_that_has_loaded_a_model_are_ended_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 3

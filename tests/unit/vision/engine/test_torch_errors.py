"""Errors of torch mean one of three things: no memory, no device, or an error of the request."""

import pytest
import torch

from workers.vision.engine.errors import DeviceLost, OutOfMemory
from workers.vision.engine.torch_errors import translate


def accelerator_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error: something\nCompile with `TORCH_USE_CUDA_DSA`")
    setattr(error, "error_code", code)  # noqa: B010 - torch sets it, its stubs do not know it
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        accelerator_error(2),
    ],
)
def test_memory_that_is_not_there_is_told_apart(error: Exception) -> None:
    assert isinstance(translate(error), OutOfMemory)


@pytest.mark.parametrize(
    "error", [accelerator_error(710), RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling x")]
)
def test_a_lost_device_is_told_apart_and_named_in_one_line(error: Exception) -> None:
    found = translate(error)
    assert isinstance(found, DeviceLost)
    assert str(found).startswith("CUDA error")
    assert "\n" not in str(found)


def test_any_other_error_stays_what_it_is() -> None:
    other = ValueError("no CUDA error at all")
    assert translate(other) is other

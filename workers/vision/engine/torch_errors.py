"""What torch raises on a device, as the engine's own errors. For every engine that computes with torch."""

import torch

from workers.vision.engine.errors import DeviceLost, OutOfMemory

CUDA_ERROR_MEMORY_ALLOCATION = 2  # cudaError_t; the one accelerator error after which the device goes on


def translate(error: Exception) -> Exception:
    """Return the `OutOfMemory` or `DeviceLost` that `error` means, or `error` itself.

    The new errors come without the traceback of the old one, which would keep the tensors of the failed step alive.
    """
    if _out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(_first_line(error) or "out of memory")
    if _device_lost(error):
        return DeviceLost(_first_line(error))
    return error


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
    return "can't allocate memory" in str(error)  # DefaultCPUAllocator raises a bare RuntimeError


def _device_lost(error: Exception) -> bool:
    """Libraries over CUDA (cuBLAS, cuDNN) raise a bare RuntimeError that begins with these words."""
    return isinstance(error, torch.AcceleratorError) or str(error).startswith("CUDA error")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

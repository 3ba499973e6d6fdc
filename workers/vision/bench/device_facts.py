"""Names what a figure was measured on."""

import os
import platform
from pathlib import Path

import torch

DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def device_facts(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Device, its driver, torch and the number type, as strings."""
    software = {"torch": torch.__version__, "python": platform.python_version()}
    facts = software | {"dtype": str(dtype).removeprefix("torch.")}
    if device.type != "cuda":
        return {"device": f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"} | facts
    found = torch.cuda.get_device_properties(device)
    memory = f"{found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
    return {
        "device": f"{found.name}, {memory}, capability {found.major}.{found.minor}",
        "driver": driver_version(),
        "cuda": str(torch.version.cuda),
    } | facts


def driver_version(path: Path = DRIVER_VERSION) -> str:
    """NVIDIA's driver, as the kernel's module tells."""
    try:
        return path.read_text().partition("\n")[0].removeprefix("NVRM version: ").strip()
    except OSError:
        return "unknown"

"""The machine's NVIDIA GPUs, as the kernel driver shows them; no library of the vendor is needed."""

from __future__ import annotations

import stat
from pathlib import Path


def gpu_names(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Models of the GPUs that the driver knows, in the order of their bus addresses."""
    names = []
    for file in sorted(driver.glob("*/information")):
        fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    return names


def device_nodes(devices: Path = Path("/dev")) -> list[Path]:
    """The character devices that a CUDA program opens: /dev/nvidia0 ..., nvidiactl, nvidia-uvm and their like."""
    found = [*devices.glob("nvidia*"), *devices.glob("nvidia-caps/*")]
    return sorted(path for path in found if stat.S_ISCHR(path.stat().st_mode))

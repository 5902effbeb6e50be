"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def machine() -> str:
    """Cores this process may use, memory in GiB and the model of the CPU."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{_cores()} cores, {memory_gib:.0f} GiB, {_cpu_model()}"


def _cores() -> int:
    # A container often sees the host's cores but may use only some of them.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

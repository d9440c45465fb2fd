"""Time work on a device, and measure how fast the device can be."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pruning.engine import device

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # as Linux calls them, the fastest first


def spent(where: torch.device) -> float:
    """Seconds that work has taken so far: CPU seconds of this process, or on a GPU, seconds until it has finished."""
    if where.type == "cpu":
        return time.process_time()
    device.synchronize([where])
    return time.perf_counter()


def seconds(where: torch.device, action: Callable[[], Any]) -> float:
    """The seconds from the start of an action until the device has finished it."""
    device.synchronize([where])
    started = time.perf_counter()
    action()
    device.synchronize([where])
    return time.perf_counter() - started


def matmul_peak(where: torch.device, dtype: torch.dtype) -> float:
    """The GFLOP/s of a device in one large matrix product; a multiply-add counts as two operations.

    On a CPU these are CPU seconds, so other work on the machine matters little.
    """
    width = 2048 if where.type == "cpu" else 8192
    a, b = (torch.randn(width, width, device=where).to(dtype) for _ in range(2))
    a @ b
    taken = []
    for _ in range(8):
        started = spent(where)
        a @ b
        taken.append(spent(where) - started)
    return 2 * width**3 / min(taken) / 1e9


def device_name(where: torch.device) -> str:
    """The name of the GPU, or of the processor with its fastest instructions for bfloat16."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    fastest = [name for name in INSTRUCTIONS if name in known.get("flags", "").split()]
    return " with ".join([known.get("model name", platform.processor()), *fastest[:1]])

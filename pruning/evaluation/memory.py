"""Measure the size of a model, and the extra memory that it needs to run."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def weight(model: Any) -> tuple[int, int]:
    """The number of parameters, and the bytes of all tensors in the state dict. Tied weights count once."""
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, sum(
        t.numel() * t.itemsize for t in _distinct(model.state_dict(keep_vars=True).values())
    )


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


class Peak:
    """Measures extra memory: the peak memory use after `start`, minus the use at `start`."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def start(self) -> None:
        """Start measuring."""
        import torch

        if self.cuda:
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
        else:
            _release_freed_memory()
            _reset_peak()
        self.before = self._now("memory_allocated", "VmRSS")

    def extra(self) -> int | None:
        """The peak above the use at `start`, in bytes; None if it is unknown.

        With GPUs, memory is summed over all GPUs. Without GPUs, the peak is that of the process, known only on Linux.
        """
        peak = self._now("max_memory_allocated", "VmHWM")
        return None if peak is None or self.before is None else max(0, peak - self.before)

    def _now(self, of_cuda: str, of_process: str) -> int | None:
        import torch

        if self.cuda:
            devices = range(torch.cuda.device_count())
            return int(sum(getattr(torch.cuda, of_cuda)(number) for number in devices))
        return _status(of_process)


def _release_freed_memory() -> None:
    """Return freed memory to the system. If the process kept this memory, using it again would not count as extra."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # no glibc, or not Linux
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    """Reset Linux's record of the process's peak memory."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or a container that forbids the write
        return


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    matches = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(matches[0][1]) * 1024 if matches else None

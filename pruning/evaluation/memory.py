"""What a model weighs, and the memory that running it takes on top."""

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
    """Parameters, and bytes of all that a checkpoint holds; what is tied counts once."""
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, sum(
        t.numel() * t.itemsize for t in _distinct(model.state_dict(keep_vars=True).values())
    )


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


class Peak:
    """The most memory that was in use since `start`, beyond what was in use then."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def start(self) -> None:
        """Begin to watch."""
        import torch

        if self.cuda:
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
        else:
            _give_back()
            _forget_peak()
        self.before = self._now("memory_allocated", "VmRSS")

    def extra(self) -> int | None:
        """Bytes since then: of the GPUs' memory or, on Linux, of the process. None where that is not known."""
        peak = self._now("max_memory_allocated", "VmHWM")
        return None if peak is None or self.before is None else max(0, peak - self.before)

    def _now(self, of_cuda: str, of_process: str) -> int | None:
        import torch

        if self.cuda:
            devices = range(torch.cuda.device_count())
            return int(sum(getattr(torch.cuda, of_cuda)(number) for number in devices))
        return _status(of_process)


def _give_back() -> None:
    """Let the C library return what was freed, which the process would use again without counting as more."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    """Let Linux count the process's peak from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or a container that forbids it
        return


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(found[0][1]) * 1024 if found else None

"""The devices of a model: their free memory, their peak use, and how precisely they compute."""

from __future__ import annotations

import logging
import math
import os
import resource
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import nn

from pruning.core import PROCESS

log = logging.getLogger(__name__)

GROUPS = Path("/sys/fs/cgroup")


def exact() -> None:
    """Make equal batches give bitwise equal losses, and compute float32 products in full float32 precision.

    Operations without a deterministic kernel still run. Call this before the first matrix product on a GPU.
    """
    # Without this setting, cuBLAS can add numbers in a different order in each run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # Sums of half-precision products stay in float32 until they are complete.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if torch.cuda.is_available():
        # By default, deterministic mode also fills new memory, so results are written twice: turn that off.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")


def survive_fork() -> None:
    """In a forked process, let torch compute with one thread.

    Its other threads exist only in the parent, and a product that waits for them never ends.
    """
    if os.getpid() != PROCESS and (threads := torch.get_num_threads()) > 1:
        torch.set_num_threads(1)
        log.warning(
            "this process was forked, and the %d threads of torch are those of its parent: it computes with one "
            "thread. To use more, start it with multiprocessing.get_context('spawn').", threads,
        )  # fmt: skip


def devices(module: nn.Module) -> list[torch.device]:
    """The devices that hold a model's weights; the CPU if all weights are on disk."""
    occupied = {parameter.device for parameter in module.parameters() if parameter.device.type != "meta"}
    return sorted(occupied, key=str) or [torch.device("cpu")]


def offloaded(module: nn.Module) -> bool:
    """Whether some weights are on disk and are read again for each use."""
    return any(parameter.device.type == "meta" for parameter in module.parameters())


def free_memory(module: nn.Module) -> int:
    """The smallest amount of free memory among the model's devices, in bytes."""
    return min(map(_free, devices(module)))


def _free(device: torch.device) -> int:
    if device.type != "cuda":
        return int(min(psutil.virtual_memory().available, _allowed()))
    # Memory that PyTorch has reserved but does not use is free, too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _allowed() -> float:
    """The bytes that the process may still use within its container's or SLURM job's limit; infinite without one."""
    left = math.inf
    with suppress(OSError, ValueError):
        own = GROUPS / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip("/\n")
        for group in (own, *own.parents):
            limit = (group / "memory.max").read_text().strip() if (group / "memory.max").exists() else "max"
            if limit != "max":
                stated = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / "memory.current").read_text()) - int(stated["inactive_file"])
                left = min(left, int(limit) - used)
    return max(0.0, left)


def peak_memory(module: nn.Module) -> int:
    """The peak memory so far, in bytes, summed over the model's GPUs; without GPUs, that of the whole process."""
    gpus = [device for device in devices(module) if device.type == "cuda"]
    if gpus:
        return sum(int(torch.cuda.max_memory_allocated(device)) for device in gpus)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out, on a device or the CPU."""
    return "memory" in str(error).lower()


def synchronize(used: Iterable[torch.device]) -> None:
    """Wait until these devices have finished their queued work, so that a clock can be read."""
    for device in used:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

"""What the devices of a model have, what was used of them, and how exactly they compute."""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Iterable

import psutil
import torch
from torch import nn

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS may add up in another order next time


def exact(tf32: bool = False) -> None:
    """Let equal batches have equal losses, to the last bit, and products of float32 be products of float32.

    With `tf32`, a GPU may round their factors to 10 bits, which is faster. What has no deterministic kernel runs all
    the same. To be called before the first product on a GPU.
    """
    os.environ.setdefault(*WORKSPACE)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    # Sums of half-precision products stay in float32 until they are complete.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if torch.cuda.is_available():
        # The safeguard that goes with it writes every result twice.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")


def devices(module: nn.Module) -> list[torch.device]:
    """The devices on which a model's weights lie; for those that lie on disk, where they are brought."""
    found = {parameter.device for parameter in module.parameters() if parameter.device.type != "meta"}
    return sorted(found, key=str) or [torch.device("cpu")]


def free_memory(module: nn.Module) -> int:
    """Bytes that are free now, on the fullest of a model's devices."""
    return min(map(_free, devices(module)))


def _free(device: torch.device) -> int:
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    # What PyTorch has taken from the GPU and nobody uses is free, too.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def peak_memory(module: nn.Module) -> int:
    """The most bytes that were in use so far: of the memory of all GPUs of a model, or of the process."""
    gpus = [device for device in devices(module) if device.type == "cuda"]
    if gpus:
        return sum(int(torch.cuda.max_memory_allocated(device)) for device in gpus)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(found: Iterable[torch.device]) -> None:
    """Wait until these devices have done what they were asked to, for a clock."""
    for device in found:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

"""Several processes with one task: who does what, and sums over all. With one process, nothing happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def _world() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def is_first() -> bool:
    """Whether this is the rank that writes files."""
    return _world()[0] == 0


def own(tasks: Sequence[T]) -> Sequence[T]:
    """This rank's share of some tasks, dealt out like cards."""
    rank, size = _world()
    return tasks[rank::size]


def total(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum over ranks, in float64, the same on all of them."""
    import torch
    import torch.distributed as dist

    if _world()[1] == 1:
        return values
    tensor = torch.from_numpy(values).to(_device())
    dist.all_reduce(tensor)
    summed: np.ndarray[Any, Any] = tensor.cpu().numpy()
    return summed


def longest(seconds: float) -> float:
    """The longest time that any rank took, so that all of them plan alike."""
    import torch
    import torch.distributed as dist

    if _world()[1] == 1:
        return seconds
    tensor = torch.tensor(seconds, dtype=torch.float64, device=_device())
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def from_first(value: T) -> T:
    """What the first rank says, on all of them."""
    import torch.distributed as dist

    if _world()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _device() -> Any:
    import torch
    import torch.distributed as dist

    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

"""Accelerate's loop on the ranks that the project has joined: backward passes, sums of gradients, clipping.

The ranks are joined by `pruning.distributed` (torchrun or submitit), and each sees only its own GPUs. Accelerate is
given this view in its environment variables, because it would otherwise choose a GPU by the local rank.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pruning.distributed import collectives


def accelerator(device: torch.device) -> Any:
    """An Accelerator for a model on a device; gradients are summed over ranks with its method `reduce`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # of an earlier model, perhaps on another device
    threads = torch.get_num_threads()
    with _environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of threads, which is put back
        made = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    torch.set_num_threads(threads)
    return made


@contextmanager
def _environment() -> Iterator[None]:
    """Within this context, the environment describes the joined ranks, each on a machine of its own."""
    size = collectives.world_size()
    wanted = {
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "WORLD_SIZE": str(size),
        "RANK": str(collectives.rank()),
    }
    wanted |= {"MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1")}
    changed = wanted if size > 1 else {}
    names = (*wanted, "MASTER_PORT")
    saved = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

"""Several processes that meet, for tests of ranks."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

# What takes seconds to import is imported once, in a process from which the others are forked.
PRELOADED = [
    "torch",
    "transformers.models.llama.modeling_llama",
    "pruning.runs.run_cell",
    "pruning.engine.forward",
    "tests.helpers.rows",
]


def started(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run function(rank, count, port, *arguments) in `count` processes. Raises the error of a process that fails."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    mp.start_processes(  # type: ignore[no-untyped-call]
        function, (count, port, *arguments), nprocs=count, start_method="forkserver"
    )


def meet(rank: int, size: int, port: int) -> None:
    """Say what torchrun says."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})

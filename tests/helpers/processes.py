"""Run functions in processes with preloaded imports: in several ranks, or in one process that is killed."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

# These modules take seconds to import. They are imported once, in the process from which the others are forked.
PRELOADED = [
    "torch",
    "transformers.models.llama.modeling_llama",
    "pruning.runs.run_cell",
    "pruning.engine.forward",
    "tests.helpers.rows",
]


def started(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run function(rank, count, port, *arguments) in `count` processes. If one fails, raises its error."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    mp.start_processes(  # type: ignore[no-untyped-call]
        function, (count, port, *arguments), nprocs=count, start_method="forkserver"
    )


def meet(rank: int, size: int, port: int) -> None:
    """Set the environment variables that torchrun sets."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})


def killed(
    function: Callable[..., None],
    *arguments: str,
    log: Path,
    modules: Sequence[str] = PRELOADED,
    kill_after: float | None = None,
) -> tuple[int, float]:
    """Call a function in a process that has imported `modules`, and kill it after `kill_after` seconds (None: never).

    Returns the exit status (-9 if it was killed) and the seconds that it ran. Its output is appended to `log`.
    """
    multiprocessing.set_forkserver_preload([*modules])
    process = multiprocessing.get_context("forkserver").Process(
        target=_logged, args=(log, function, arguments)
    )
    begun = time.monotonic()
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, time.monotonic() - begun


def _logged(log: Path, function: Callable[..., None], arguments: Sequence[str]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = sys.argv[:1]
    function(*arguments)

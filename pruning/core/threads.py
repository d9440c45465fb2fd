"""How the threads of torch wait for work. To be set before torch is imported."""

from __future__ import annotations

import os

# Threads of GNU's and LLVM's OpenMP spin for a while when they wait for each other. On a machine whose cores are
# busy with other processes, a spinning thread takes the core from the one it waits for: docs/engine.md has figures.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def let_threads_wait() -> None:
    """Let idle threads sleep instead of spin, unless the user has decided how threads wait."""
    if "GOMP_SPINCOUNT" in os.environ or "KMP_BLOCKTIME" in os.environ:
        return
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)

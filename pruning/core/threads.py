"""Set how the threads of torch wait for each other. This must be done before torch is imported."""

from __future__ import annotations

import os

# In GNU's OpenMP, a waiting thread spins 300,000 times before it sleeps. If other processes keep the cores busy, the
# spinning thread takes a core from the thread that it waits for. On an idle machine, torch is almost as fast with
# 1,000 spins as with 300,000; on a busy machine, it is as fast as with no spins. docs/engine.md has the times.
SPINS = ("GOMP_SPINCOUNT", "1000")
DECIDED = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # if the user has set one of these, nothing is changed


def let_threads_wait() -> None:
    """Let waiting threads sleep soon, unless the user has set how threads wait."""
    if not any(name in os.environ for name in DECIDED):
        os.environ.setdefault(*SPINS)

"""How the threads of torch wait for each other. To be set before torch is imported."""

from __future__ import annotations

import os

# A thread of GNU's OpenMP that waits spins 300,000 times before it sleeps. If other processes keep the cores busy,
# spinning takes the core from the very thread that is waited for. 1,000 spins cost almost nothing on a quiet machine
# and are as good as none on a busy one; docs/engine.md has the times.
SPINS = ("GOMP_SPINCOUNT", "1000")
DECIDED = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a user who has set one of these has decided


def let_threads_wait() -> None:
    """Let waiting threads sleep soon, unless the user has set how threads wait."""
    if not any(name in os.environ for name in DECIDED):
        os.environ.setdefault(*SPINS)

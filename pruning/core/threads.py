"""Set how threads wait, and how many there are. This must be done before torch or numpy is imported."""

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


# The matrices of the analysis are small. If other processes keep the cores busy, one product of two such matrices
# takes 0.1 ms with one thread and 90 ms with two, which wait for each other. With one thread, the numbers are also
# the same on every machine of one kind, however many cores it has.
BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # the libraries in the packages of numpy and scipy


def use_one_blas_thread() -> None:
    """Let numpy compute with one thread, unless the user has set a number."""
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")

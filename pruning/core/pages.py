"""Keep the memory that tensors give back. This must be done before large tensors are made.

glibc returns every large tensor to the system as soon as it is freed, and the next one gets new pages, which the
system fills with zeros first. A forward pass makes and frees a tensor in every step. With the pages kept, no number
changes, and the process holds the most memory that it has ever used until it ends.
"""

from __future__ import annotations

import ctypes
import os
import platform

from pruning.core.threads import let_threads_wait

# The numbers of glibc's settings, from its header malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER = -1  # as a threshold for returning memory

DECIDED = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_ARENA_MAX",
    "LD_PRELOAD",  # of another allocator, such as jemalloc
)


def keep_pages() -> bool:
    """Let glibc keep freed memory for the next tensor; returns whether it does.

    Nothing is changed if the user has set how glibc allocates, or with another C library.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(os.environ.get(name) for name in DECIDED) or platform.libc_ver()[0] != "glibc":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(MMAP_MAX, 0)) and bool(set_option(TRIM_THRESHOLD, NEVER))


def prepare_process() -> None:
    """Set how threads wait and how memory is kept; for commands, before torch or numpy is imported."""
    let_threads_wait()
    keep_pages()

"""Freed memory is kept for the next tensor, unless the user has decided otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pruning.core.terminal import keep_pages
kept = keep_pages() if sys.argv[1] == "keep" else False
import torch
size = int(sys.argv[2])
torch.ones(size)  # the first one needs new pages in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(size)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


SMALL, LARGE = 1 << 24, 9 << 26  # numbers of 4 bytes: 64 MiB, and more than 2 GiB


def faults(how: str, size: int = SMALL, **settings: str) -> tuple[bool, int]:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | settings
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, str(size)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    kept, number = done.stdout.split()
    return kept == "True", int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns pages")
def test_the_second_tensor_needs_no_new_pages() -> None:
    (kept, few), (_, many) = faults("keep"), faults("leave")
    assert kept
    assert few < 1000 < many
    assert faults("keep", LARGE)[1] < 1000


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name: str) -> None:
    value = "glibc.malloc.mmap_max=9" if name == "GLIBC_TUNABLES" else "65536"
    assert faults("keep", **{name: value})[0] is False

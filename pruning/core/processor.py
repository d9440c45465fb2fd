"""The names of the processor and of its instruction set, on which the rounding of losses depends."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # their names in Linux, fastest first
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")  # of oneDNN, torch and MKL


def processor_name() -> str:
    """The processor's name, as Linux reports it or, on other systems, Python."""
    return proc_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """The processor's fastest known instructions, such as `avx2`, and the environment variables that forbid some.

    If none of the known instructions is reported, the answer names the architecture, such as `arm64`.
    """
    flags = (proc_field("/proc/cpuinfo", "flags") or "").split()
    fastest = next((name for name in INSTRUCTIONS if name in flags), platform.machine())
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return ", limited by ".join([fastest, *([" and ".join(limits)] if limits else [])])


def proc_field(path: str, field: str) -> str | None:
    """The first value of a field in a file of Linux's /proc; None if the file or the field is missing."""
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return None

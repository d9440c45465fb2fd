"""The names of the processor and of its instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core import processor
from pruning.core.processor import LIMITS, instruction_set, proc_field
from pruning.core.records import provenance


@pytest.mark.parametrize(
    ("flags", "limits", "name"),
    [
        ("sse4_2 avx2 avx512f amx_bf16 avx512_bf16", {}, "amx_bf16"),
        ("fpu avx avx2", {"ONEDNN_MAX_CPU_ISA": ""}, "avx2"),
        (None, {}, "riscv64"),
        (
            "avx2 avx512f",
            {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
            "avx512f, limited by ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2",
        ),
    ],
)
def test_a_record_names_the_fastest_instructions_and_their_limits(
    flags: str | None, limits: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "proc_field", lambda *_: flags)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    for limit in LIMITS:
        monkeypatch.delenv(limit, raising=False)
    for limit, value in limits.items():
        monkeypatch.setenv(limit, value)
    assert instruction_set() == name
    assert provenance("2025-01-01T00:00:00+00:00", "cpu")["instructions"] == name


def test_a_field_of_a_proc_file_is_its_first_value_or_none(tmp_path: Path) -> None:
    cores = tmp_path / "cpuinfo"
    cores.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert proc_field(str(cores), "flags") == "fpu avx2"
    assert proc_field(str(cores), "model name") is None
    assert proc_field(str(tmp_path / "missing"), "flags") is None

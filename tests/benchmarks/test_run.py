"""The results file of `make bench` keeps the rows of other processors."""

from __future__ import annotations

from benchmarks.run import WORKS, replaced

FIRST, SECOND = (work.name for work in WORKS[:2])


def row(work: str, device: str, ratio: float = 1.0) -> dict[str, object]:
    return {"work": work, "device": device, "ratio": ratio}


def test_a_new_row_replaces_that_of_its_work_and_device_only() -> None:
    old = [row(SECOND, "EPYC"), row("no work any more", "EPYC"), row(FIRST, "Xeon")]
    rows = replaced(replaced(old, row(FIRST, "EPYC")), row(SECOND, "EPYC", ratio=2.0))
    assert rows == [row(FIRST, "EPYC"), row(SECOND, "EPYC", ratio=2.0), row(FIRST, "Xeon")]

from __future__ import annotations

import pytest

from benchmarks.growth import COMMANDS, Run, exponent, rows

START = 2.0


def runs(command: str, power: float) -> list[Run]:
    return [Run(command, n, START + 1e-3 * n**power, 9.0, 300.0, 1.5) for n in (500, 1000, 5000)]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_that_of_the_work_without_the_start(power: float) -> None:
    assert exponent(runs("fig1_masks", power), START) == pytest.approx(power)


def test_every_command_of_the_analysis_has_a_row() -> None:
    every = [run for command in COMMANDS for run in runs(command, 1.0)]
    lines = rows(every, dict.fromkeys(COMMANDS, START))
    assert {"fig1_masks", "fig8_stability", "table3_search", "report"} <= set(COMMANDS)
    assert "paper_check" not in COMMANDS
    assert lines[0].startswith("| CPU seconds | 500 cells | 1,000 cells | 5,000 cells | exponent |")
    assert [line.count("|") for line in lines] == [lines[0].count("|")] * (2 + len(COMMANDS))
    assert any(line.startswith("| fig1_masks | 2.5 | 3.0 | 7.0 | 1.00 | 1.00 |") for line in lines)

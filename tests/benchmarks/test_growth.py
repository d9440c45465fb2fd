"""The growth of a study's costs, and the copied cells that figures of sub-layers and of healing are measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.data.load import Metric, done, load
from analysis.figure_command import FIGURES
from analysis.figures import fig9_units, fig10_healing
from benchmarks.growth import COMMANDS, row, write_copies

METRIC = Metric("ppl", ("ppl/wikitext2",))


def test_the_exponent_compares_the_two_largest_sizes_without_the_start() -> None:
    costs = {"500": 9.0, "1000": 1.0, "2000": 4.0}
    assert row("work", {"1000": 2.0, "2000": 3.0}, start=1.0)[2] == "1.00"
    assert row("work", costs) == ["work", "500: 9, 1,000: 1, 2,000: 4", "2.00"]


def test_every_figure_and_table_is_measured() -> None:
    assert set(COMMANDS) == {*FIGURES, "report"}


def test_each_copied_pair_is_compared(tmp_path: Path) -> None:
    write_copies(tmp_path, "study_units", 3)  # fewer than there are
    few = fig9_units.compared(tmp_path, load(tmp_path), METRIC)
    cells = len(done(load(tmp_path)))
    write_copies(tmp_path / "more", "study_units", 3 * cells)
    frame = load(tmp_path / "more")
    assert len(done(frame)) == frame["cell"].nunique() == 3 * cells
    assert len(fig9_units.compared(tmp_path / "more", frame, METRIC)) == 3 * len(few)


@pytest.mark.slow
def test_copies_are_healed_as_their_originals(tmp_path: Path) -> None:
    states = []
    for times in (1, 2):
        folder = tmp_path / str(times)
        write_copies(folder, "study_healing", 36 * times)
        (masks,) = fig10_healing.healed(folder, load(folder), METRIC).values()
        states.append(sum(len(one.states) for one in masks))
    assert states[1] > 1.5 * states[0], "most masks of a copy are new"

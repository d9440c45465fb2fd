"""The copies of archived cells are cells of their own, which the figures of sub-layers and of healing can draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.data.load import Metric, done, load
from analysis.figures import fig9_units, fig10_healing
from benchmarks import growth

METRIC = Metric("ppl", ("ppl/wikitext2",))


def test_each_copied_pair_is_compared(tmp_path: Path) -> None:
    growth.write_copies(tmp_path, "study_units", 3)  # fewer than there are
    few = fig9_units.compared(tmp_path, load(tmp_path), METRIC)
    cells = len(done(load(tmp_path)))
    growth.write_copies(tmp_path / "more", "study_units", 3 * cells)
    frame = load(tmp_path / "more")
    assert len(done(frame)) == frame["cell"].nunique() == 3 * cells
    assert len(fig9_units.compared(tmp_path / "more", frame, METRIC)) == 3 * len(few)


@pytest.mark.slow
def test_copies_are_healed_as_their_originals(tmp_path: Path) -> None:
    found = {}
    for times in (1, 2):
        folder = tmp_path / str(times)
        growth.write_copies(folder, "study_healing", 36 * times)
        (masks,) = fig10_healing.healed(folder, load(folder), METRIC).values()
        found[times] = masks
    states = [sum(len(one.states) for one in masks) for masks in found.values()]
    assert states[1] > 1.5 * states[0], "most masks of a copy are new"

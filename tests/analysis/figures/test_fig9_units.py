"""Figure 9 pairs cells over sub-layers with cells over blocks, by the losses of the same windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import Metric, choose, load
from analysis.figures.fig9_units import compared, draw
from analysis.stats.same_samples import paired, window_losses
from pruning.core.records import read_done
from tests.conftest import Command

METRIC = "ppl/heldout"
HELDOUT = Metric("ppl", (METRIC,))


def test_a_pair_is_compared_on_the_same_windows(launch: Command) -> None:
    ended = launch("-m", "unit=block,sublayer,attention", "ratio=0.34", "eval.samples=4", "study=units")
    assert ended.status == 0, ended.err
    rows = compared(ended.results, load(ended.results, "units"), HELDOUT)
    assert sorted(rows["unit"]) == ["attention", "sublayer"]
    both = {
        unit: window_losses(ended.results, read_done(folder.parent), [METRIC])
        for folder in ended.results.glob("*/result.json")
        for unit in [read_done(folder.parent)["config"]["unit"]]
    }
    row = rows[rows["unit"] == "sublayer"].iloc[0]
    assert both["block"] is not None
    assert both["sublayer"] is not None
    expected = paired(both["sublayer"], both["block"])
    assert (row["difference"], row["low"], row["high"]) == (expected.mean, expected.low, expected.high)
    assert row["windows"] == 4
    assert row["ppl_block"] == pytest.approx(float(np.exp(both["block"].mean())))
    (axes,) = draw(rows, HELDOUT).axes
    ratios = {round(float(line.get_xdata()[0]), 9) for line in axes.lines if line.get_linestyle() == "None"}
    assert ratios == {round(float(np.exp(value)), 9) for value in rows["difference"]}


def test_repaired_masks_are_compared_with_repaired_ones(launch: Command) -> None:
    words = ("unit=block,sublayer", "ratio=0.34", "eval.samples=2", "study=units")
    ended = launch("-m", *words, "compensation=none,linear")
    assert ended.status == 0, ended.err
    frame = load(ended.results, "units")
    rows = compared(ended.results, frame, choose(frame, "ppl")).set_index("compensation")
    assert sorted(rows.index) == ["linear", "none"]
    for how in ("none", "linear"):
        cells = frame[frame["compensation"] == how].set_index("unit")
        assert rows.loc[how, "ppl"] == pytest.approx(cells.loc["sublayer", f"pruned/{METRIC}"])
        assert rows.loc[how, "ppl_block"] == pytest.approx(cells.loc["block", f"pruned/{METRIC}"])
    lines = [label.get_text() for label in draw(rows.reset_index(), HELDOUT).axes[0].get_yticklabels()]
    assert [line.endswith("compensation=linear") for line in lines] == [False, True, False]


def test_results_without_a_partner_or_the_losses_of_windows_are_left_out(
    launch: Command, tmp_path: Path
) -> None:
    ended = launch("-m", "unit=block,sublayer", "ratio=0.34", "study=units")
    frame = load(ended.results, "units")
    with pytest.raises(NothingToRead, match="unit=block,sublayer at the same ratio"):
        compared(ended.results, frame[frame["unit"] != "block"], HELDOUT)
    for path in (ended.results / "evaluation").rglob("*.terms.json"):
        path.unlink()
    with pytest.raises(NothingToRead, match="evaluate the cells again"):
        compared(ended.results, frame, HELDOUT)

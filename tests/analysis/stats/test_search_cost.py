"""What a search costs alone does not depend on which cell computed a score that several asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from analysis.stats import regret

SECONDS = {(): 4.0, (0,): 2.0, (1,): 3.0, (0, 1): 1.0, (0, 2): 1.5}
ASKED = {"first": [(), (0,), (1,)], "second": [(), (0,), (1,), (0, 1), (0, 2), (0, 2)]}


def ran(order: Sequence[str], own: float = 0.25) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cells that ran in this order and share their scores, with their journals. Each computes for `own` seconds."""
    known = set[tuple[int, ...]]()
    rows, traces = [], {}
    for cell in order:
        trace = []
        for mask in ASKED[cell]:
            paid = 0.0 if mask in known else SECONDS[mask]
            trace.append({"dropped": list(mask), "samples": [1.0, 1.0], "seconds": paid})
            known.add(mask)
        traces[cell] = trace
        spent = sum(score["seconds"] for score in trace)
        rows.append({"cell": cell, "model": "m", "k": len(rows), "seconds": spent + own})
    cells = pd.DataFrame(rows).assign(n_blocks=4, n_units=4, block_forwards=1.0, block_forwards_alone=1.0)
    shared = {"objective": "o", "calibration": "c", "samples": 2, "length": 8, "draw": 0}
    return cells.assign(**shared), traces


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_the_order_of_the_cells_does_not_matter(order: tuple[str, str]) -> None:
    cells, traces = ran(order)
    alone = regret.alone(cells, traces).set_index(cells["cell"])
    assert alone["seconds_alone"].to_dict() == pytest.approx({"first": 9.25, "second": 11.75})
    assert alone["forwards_alone"].to_dict() == {"first": 4 + 3 + 3, "second": 4 + 3 + 3 + 2 + 2}
    assert cells.set_index("cell")["seconds"].to_dict() != alone["seconds_alone"].to_dict()


def test_scores_of_other_draws_are_not_shared() -> None:
    cells, traces = ran(["first", "second"])
    costs = regret.shared_costs(cells.assign(draw=[0, 1]), traces)
    assert costs["first"] is not costs["second"]
    assert (0, 1) not in costs["first"].masks


def test_a_score_that_another_study_computed_costs_the_mean_of_the_others() -> None:
    cells, traces = ran(["first"])
    traces["first"][1]["seconds"] = 0.0
    assert regret.shared_costs(cells, traces)["first"].masks[0,] == pytest.approx((4 + 3) / 2 / 2)


def test_a_criterion_costs_one_pass_however_many_masks_are_asked_for() -> None:
    cells, traces = ran(["first", "second"])
    for trace in traces.values():
        for score in trace[1:]:
            score["seconds"] = 0.0
        trace[0]["seconds"] = 0.5
    cells = cells.assign(block_forwards=[4.0, 4.0], block_forwards_alone=0.0, seconds=[0.6, 0.7])
    alone = regret.alone(cells, traces)
    assert list(alone["seconds_alone"]) == pytest.approx([0.6, 0.7])
    assert list(alone["forwards_alone"]) == [4.0, 4.0]


def test_a_sub_layer_is_half_a_block() -> None:
    cells, traces = ran(["first"])
    cells = cells.assign(n_units=8)
    assert list(regret.alone(cells, traces)["forwards_alone"]) == [4 + 3.5 + 3.5]


def test_a_mask_that_a_race_scored_on_a_part_of_the_samples_costs_that_part() -> None:
    cells, traces = ran(["second"])
    race = traces["second"]
    part = {"dropped": [1], "samples": [1.0], "seconds": 1.5, "of": 2}
    race[2] = part  # and not the 3 seconds of both samples
    # Two lines of one mask: a part, then all samples with the seconds of both.
    race[5:] = [part | {"dropped": [0, 2], "seconds": 0.75}, race[4]]
    cells = cells.assign(seconds=4 + 2 + 1.5 + 1 + 1.5 + 0.25)
    alone = regret.alone(cells, traces)
    assert list(alone["seconds_alone"]) == pytest.approx([4 + 2 + 1.5 + 1 + 1.5 + 0.25])
    assert list(alone["forwards_alone"]) == pytest.approx([4 + 3 + 3 / 2 + 2 + 2])

"""Groups take about the user's patience, whatever a group costs besides its masks."""

from __future__ import annotations

import pytest

from pruning.engine.batching import FIRST, Pace


@pytest.mark.parametrize(
    ("patience", "fixed", "each", "size"),
    [
        (20.0, 0.0, 0.1, 200),
        (20.0, 10.0, 0.1, 100),
        (20.0, 15.0, 0.1, 150),  # at most half of the time is fixed
        (0.1, 0.3, 0.01, 30),
        (20.0, 0.0, 25.0, 1),
    ],
)
def test_the_size_fits_the_fixed_and_the_marginal_cost(
    patience: float, fixed: float, each: float, size: int
) -> None:
    pace = Pace(patience)
    assert pace.size() == FIRST
    for _ in range(4):
        pace.note(pace.size(), fixed + each * pace.size())
    assert pace.size() == pytest.approx(size, abs=1)


def test_times_that_fit_no_line_give_the_mean_time_of_a_mask() -> None:
    pace = Pace(10.0)
    for masks, seconds in ((4, 8.0), (8, 4.0)):
        pace.note(masks, seconds)
    assert pace.size() == 10

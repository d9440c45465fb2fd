"""The table of the models of one cell."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.core.units import rate_text
from pruning.study import guide


@pytest.mark.parametrize("changed", [True, False])
def test_the_healed_row_names_its_mask_if_it_is_not_the_one_of_the_search(changed: bool) -> None:
    mask = {"n_blocks": 6, "dropped": [0, 5] if changed else [1, 4]}
    result: Any = {
        "mask": {"n_blocks": 6, "dropped": [1, 4]},
        "heal": {"selection": {"mask": mask, "changed": changed}, "best_step": 8},
        "evaluation": {which: {"ppl/heldout": 9.0} for which in ("dense", "pruned", "healed")},
    }
    rows = [line.strip().split("  ")[0] for line in guide.table(result).splitlines()[-3:]]
    assert rows == ["dense", "pruned", "healed (without 0 5)" if changed else "healed"]


def test_a_difference_between_slow_rates_shows() -> None:
    def run(rate: float) -> dict[str, Any]:
        return {name: {"median": rate} for name in guide.SPEED_STAGE}

    sizes = {which: {"parameters": 2000, "bytes": 10**7} for which in ("dense", "pruned")}
    result: Any = {
        "evaluation": {
            **{which: {"ppl/heldout": 9.0} for which in ("dense", "pruned")},
            "speed": {"runs": [{"dense": run(0.61), "pruned": run(0.732)}], "sizes": sizes},
        }
    }
    assert [line.split()[2:4] for line in guide.table(result).splitlines()[-2:]] == [
        ["0.610", "0.610"],
        ["0.732", "0.732"],
    ]
    numbers = {0.0: "0.00", 0.0499: "0.0499", 1.2: "1.20", 26.14: "26.1", 999.4: "999", 1133.0: "1,133"}
    assert {value: rate_text(value) for value in numbers} == numbers

"""The table of the models of one cell."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.study import stages


@pytest.mark.parametrize("changed", [True, False])
def test_the_healed_row_names_its_mask_if_it_is_not_the_one_of_the_search(changed: bool) -> None:
    mask = {"n_blocks": 6, "dropped": [0, 5] if changed else [1, 4]}
    result: Any = {
        "mask": {"n_blocks": 6, "dropped": [1, 4]},
        "heal": {"selection": {"mask": mask, "changed": changed}},
        "evaluation": {which: {"ppl/heldout": 9.0} for which in ("dense", "pruned", "healed")},
    }
    rows = [line.strip().split("  ")[0] for line in stages.table(result).splitlines()[-3:]]
    assert rows == ["dense", "pruned", "healed (without 0 5)" if changed else "healed"]

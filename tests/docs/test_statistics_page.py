"""docs/statistics.md agrees with the archived study where it says what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.described import study

WRITTEN = " ".join((Path(__file__).parents[2] / "docs/statistics.md").read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_a_regret_below_one_error_of_the_loss_is_no_reason_to_call_a_mask_as_good() -> None:
    own = study("study", ("perplexity",))
    cells = own.regrets.query("algo == 'fast_block_select'")
    in_loss_errors = (cells["regret"] / cells["standard_error"].astype(float)).mean()
    assert (
        f"masks of `fast_block_select` for perplexity are {in_loss_errors:.2f} such errors above the best"
        in WRITTEN
    )
    assert f"their paired difference is {cells['regret_se'].mean():.1f} errors" in WRITTEN
    perplexity = own.cells.assign(ppl=own.metrics["ppl"].of(own.cells))
    logs = perplexity.pivot(index="draw", columns="algo", values="ppl")
    assert (own.regrets.query("algo == 'beam'")["regret"] == 0).all()
    assert (logs["fast_block_select"] > logs["beam"]).sum() == 6
    assert "and have a higher held-out perplexity in all six draws" in WRITTEN

"""Which metric a figure shows if none is named."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import choose, of_windows


def frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame({f"pruned/{name}": [1.0, 2.0] for name in names})


def test_windows_are_those_of_the_embedded_text_or_of_what_was_measured() -> None:
    assert of_windows(frame("ppl/a", "ppl/heldout")).names == ("ppl/heldout",)
    assert of_windows(frame("ppl/wikitext2", "ppl/lambada", "acc/a")).sets == "lambada, wikitext2"
    assert of_windows(frame("ppl/wikitext2", "ppl/lambada"), "wikitext2").names == ("ppl/wikitext2",)


def test_a_metric_that_was_not_measured_is_named() -> None:
    with pytest.raises(NothingToRead, match="heldout"):
        of_windows(frame("ppl/wikitext2"), "heldout")
    with pytest.raises(NothingToRead, match="was measured"):
        of_windows(frame("acc/a"))


def test_cells_that_were_measured_on_different_texts_are_not_averaged_over_nothing() -> None:
    cells = pd.DataFrame(
        {"pruned/ppl/a": [1.0, 2.0, 3.0, None, None], "pruned/ppl/b": [None, None, None, 4.0, 5.0]}
    )
    chosen = choose(cells, "ppl")
    assert (chosen.names, chosen.others) == (("ppl/a",), ("ppl/b",))
    both = cells.fillna({"pruned/ppl/b": 1.0})
    assert choose(both, "ppl").names == ("ppl/b",)
    assert choose(both.iloc[[0, 3]].assign(**{"pruned/ppl/a": 1.0}), "ppl").names == ("ppl/a", "ppl/b")

from __future__ import annotations

from functools import partial

import pytest
from tqdm import tqdm

from pruning.runs.measurements import Progress


@pytest.fixture(autouse=True)
def bars_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.runs.measurements.tqdm", partial(tqdm, disable=False))


def test_a_bar_counts_up_to_its_total_and_no_further(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny margin greedy", 11, known=4) as progress:
        progress.update(12, 3.25, 2)
    shown = capsys.readouterr().err
    assert "tiny margin greedy  36%" in shown
    assert "| 11/11 evaluations, best loss 3.2500 without 2 blocks [" in shown


def test_a_search_with_an_unknown_end_shows_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny margin greedy", 593_920, known=0) as progress:
        progress.update(310, 3.25, 1)
    shown = capsys.readouterr().err
    assert "tiny margin greedy 310 evaluations, best loss 3.2500 without 1 block [" in shown
    assert not {"%", "/", "<"} & set(shown)

from __future__ import annotations

import json
import logging
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.errors import DamagedError, ForeignError, LossError
from pruning.core.mask import Mask
from pruning.core.scoring import Score
from pruning.core.storage import append_line
from pruning.search.journal import Journal, Store, claim

N = 8
finite = st.floats(allow_nan=False, allow_infinity=False)


def score(*dropped: int, loss: float = 1.5, seconds: float = 0.25) -> Score:
    return Score(Mask(N, dropped), loss, (loss - 0.5, loss + 0.5), seconds)


def cell(results: Path, name: str, key: str = "key") -> tuple[Journal, Store]:
    store = Store(results, key, name, N)
    claim(results, key, name)
    (results / name).mkdir(exist_ok=True)
    return Journal.open(results / name / "trace.jsonl", N), store


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_the_blocks(loss: float) -> None:
    with pytest.raises(LossError, match=rf" {loss} .*\[2, 5\] .*model\.dtype=float32"):
        Score(Mask(N, (5, 2)), loss, (loss,), 0.1)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.frozensets(st.integers(0, N - 1)), st.tuples(finite, st.lists(finite, max_size=3)), max_size=6
    )
)
def test_a_journal_gives_back_the_exact_floats_in_order(
    losses: dict[frozenset[int], tuple[float, list[float]]],
) -> None:
    scores = [Score(Mask(N, tuple(d)), loss, tuple(terms), 0.5) for d, (loss, terms) in losses.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        journal = Journal.open(path, N)
        for item in scores:
            journal.add(item)
        assert list(Journal.open(path, N).scores.values()) == scores


def test_a_torn_last_line_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    first = Journal.open(path, N)
    for block in range(3):
        first.add(score(block))
    path.write_bytes(path.read_bytes()[:-7])
    second = Journal.open(path, N)
    assert [mask.dropped for mask in second.scores] == [(0,), (1,)]
    second.add(score(7))
    assert [mask.dropped for mask in Journal.open(path, N).scores] == [(0,), (1,), (7,)]


BAD_LINES = {
    "not JSON": "{",
    "blank": "",
    "not an object": "[1]",
    "a key is missing": '{"dropped": [1], "loss": 1.0, "samples": []}',
    "a block that does not exist": '{"dropped": [8], "loss": 1.0, "samples": [], "seconds": 1}',
    "NaN": '{"dropped": [1], "loss": NaN, "samples": [], "seconds": 1}',
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_damaged_line_in_the_middle_is_named_by_its_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [json.dumps(score(block).to_line()) for block in range(3)]
    path.write_text("\n".join([lines[0], lines[1], bad, lines[2], ""]))
    with pytest.raises(DamagedError, match=rf"^{path}, line 3 .*damaged"):
        Journal.open(path, N)


def test_a_store_shares_between_cells_of_one_key_and_marks_what_is_not_paid(tmp_path: Path) -> None:
    journal, store = cell(tmp_path, "a")
    _, other = cell(tmp_path, "b")
    journal.add(score(2, seconds=3.0))
    assert other.find([Mask(N, (2,))]) == [score(2, seconds=0.0)]
    assert not other.find([Mask(N, (3,))])
    assert not store.find([Mask(N, (2,))]), "a cell's own journal is not read through the store"


def test_a_damaged_line_of_another_cell_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = cell(tmp_path, "a")
    _, store = cell(tmp_path, "b")
    first.add(score(1))
    append_line(first.path, {"something": "else"})
    first.add(score(2))
    with caplog.at_level(logging.WARNING, logger="pruning.search.journal"):
        assert store.find([Mask(N, (2,))]) == [score(2, seconds=0.0)]
        assert store.find([Mask(N, (1,))]) == [score(1, seconds=0.0)]
        assert not store.find([Mask(N, (3,))]), "it continues reading and does not warn again"
    assert [record.args for record in caplog.records] == [(first.path,)]


def test_a_cell_cannot_be_claimed_under_another_key(tmp_path: Path) -> None:
    journal, _ = cell(tmp_path, "a", key="one")
    journal.add(score(1))
    cell(tmp_path, "a", key="one")
    cell(tmp_path, "b", key="two")
    with pytest.raises(ForeignError, match=rf"^{tmp_path / 'a'} .*paths\.results=DIR"):
        cell(tmp_path, "a", key="two")

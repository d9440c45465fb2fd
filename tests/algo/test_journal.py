"""Every search, with and without racing, resumes from a truncated journal and computes only the missing losses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pruning.algo import Algo
from pruning.config.groups import options
from tests.algo.test_contract import configured
from tests.search.test_partial_scores import Losses, search


@pytest.fixture(scope="module")
def algos() -> dict[str, Algo]:
    return configured()


@pytest.mark.parametrize("delta", [None, 0.05], ids=["plain", "racing"])
@pytest.mark.parametrize("name", options("algo"))
def test_a_truncated_journal_is_completed_to_the_same_bytes(
    algos: dict[str, Algo], name: str, delta: float | None, tmp_path: Path
) -> None:
    whole, journal = search(tmp_path, Losses(), algos[name], delta=delta)
    data = journal.path.read_bytes()
    for part in (0, 0.21, 0.5, 0.83, 0.99):
        size, folder = int(part * len(data)), tmp_path / f"cut{part}"
        shutil.copytree(tmp_path / "scores", folder / "scores")
        (folder / "cell").mkdir()
        (folder / "cell" / "trace.jsonl").write_bytes(data[:size])
        losses = Losses()
        resumed, again = search(folder, losses, algos[name], delta=delta)
        assert (resumed.score, resumed.why, resumed.margins) == (whole.score, whole.why, whole.margins)
        assert (resumed.asked, resumed.paid) == (whole.asked, whole.paid)
        assert again.path.read_bytes() == data
        assert len(losses.computed) == data.count(b"\n") - data[:size].count(b"\n")


@pytest.mark.parametrize("name", options("algo"))
def test_a_race_changes_no_answer_and_partial_scores_are_not_used_as_full_ones(
    algos: dict[str, Algo], name: str, tmp_path: Path
) -> None:
    """The second search uses the scores that the first has stored, and both end as they do without the other."""
    alone, _ = search(tmp_path, Losses(), algos[name], "alone")
    (tmp_path / "shared").mkdir()
    raced, _ = search(tmp_path / "shared", Losses(), algos[name], "raced", 0.01)
    plain, journal = search(tmp_path / "shared", Losses(), algos[name], "plain")
    assert plain.score.samples == raced.score.samples == alone.score.samples
    assert all(len(score.samples) == 32 for score in journal.scores.values() if score.of is None)

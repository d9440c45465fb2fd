"""Losses over a part of the samples: stages, races, gates, and journals that are cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Gates
from pruning.algo.greedy import Greedy
from pruning.core.errors import DamagedError, LossError
from pruning.core.mask import Mask, Space
from pruning.objective import Loss
from pruning.search.decide import Racing
from tests.helpers.searches import Scripted, TermLosses, solved

N, S = 8, 32
SPACE = Space(N, 3)
RACING = Racing(0.01)


def term(mask: Mask) -> np.ndarray:
    rng = np.random.default_rng(0)
    single, common = rng.exponential(0.5, N), rng.normal(0, 1, S)
    own = np.random.default_rng([1, *mask.dropped]).normal(0, 0.1, S)
    return np.asarray(3 + single[list(mask.dropped)].sum() + common + own)


def losses(gradient: np.ndarray | None = None) -> TermLosses:
    return TermLosses(term, S, gradient=gradient)


def staged(stages: Sequence[tuple[int, int]] = ((4, 3), (16, 1))) -> Algo:
    """A search in stages: six masks on 4 samples, the best three on 16, the best of these on all.

    `stages` are other samples, and how many masks each keeps.
    """

    def script(space: Space) -> Generator[Ask, Any, Mask]:
        masks = [space.drop(0, 1, i) for i in range(2, space.n_blocks)]
        for samples, kept in stages:
            found = yield Ask(masks, samples=samples)
            masks = [masks[i] for i in np.argsort(found, kind="stable")[:kept]]
        return masks[int(np.argmin((yield Ask(masks))))]

    return Scripted(script)


def paid_in(table: TermLosses) -> float:
    """The number of computed terms, without the dense model's, as a number of full losses."""
    return sum(stop - start for mask, start, stop in table.computed if mask.dropped) / S


def test_a_later_stage_pays_only_for_the_samples_that_are_new(tmp_path: Path) -> None:
    table, algo, counts = losses(), staged(), list[int]()
    solution, _ = solved(tmp_path, table, algo, SPACE, watch=lambda masks, *_: counts.append(masks))
    by_mask: dict[Mask, list[tuple[int, int]]] = {}
    for mask, start, stop in table.computed:
        by_mask.setdefault(mask, []).append((start, stop))
    assert by_mask[solution.score.mask] == [(0, 4), (4, 16), (16, 32)]
    assert table.again == [(solution.score.mask, 0, S)], "the final mask as a whole, for the result"
    assert sorted(map(len, by_mask.values())) == [1, 1, 1, 1, 2, 2, 3], "the dense model is scored at once"
    assert solution.score.loss == pytest.approx(float(term(solution.score.mask).mean()))
    assert solution.asked == pytest.approx(6 * 4 / 32 + 3 * 16 / 32 + 1)
    assert solution.paid == pytest.approx((3 * 4 + 2 * 16 + 32) / 32)
    assert solution.score.samples == tuple(term(solution.score.mask).tolist())
    assert counts == [1, *range(2, 8), *(7 for _ in range(3 + 1))], "the watch counts each mask once"


def test_a_partial_score_is_marked_in_the_journal_and_never_taken_for_a_full_one(tmp_path: Path) -> None:
    solved(tmp_path, losses(), staged(), SPACE)
    for line in map(json.loads, (tmp_path / "cell" / "trace.jsonl").read_text().splitlines()):
        assert line.get("of", len(line["samples"])) == S
        terms = term(Mask(N, tuple(line["dropped"])))[: len(line["samples"])]
        assert line["loss"] == pytest.approx(terms.mean())
    again = losses()
    greedy, _ = solved(tmp_path, again, Greedy(), SPACE, cell="other")
    assert greedy.score.samples == tuple(term(greedy.score.mask).tolist())
    assert {(start, stop) for _, start, stop in again.computed} == {(0, S)}, (
        "no score is put together from parts"
    )


@pytest.mark.parametrize("resumed", [False, True])
def test_if_two_cells_score_parts_of_a_mask_each_pays_for_its_part(tmp_path: Path, resumed: bool) -> None:
    solved(tmp_path, losses(), staged(), SPACE, cell="first")
    table, one_stage = losses(), staged([(8, 6)])
    solution, _ = solved(tmp_path, table, one_stage, SPACE, cell="second")
    if resumed:
        solution, _ = solved(tmp_path, losses(), one_stage, SPACE, cell="second")
    assert {start for _, start, _ in table.computed} == {4, 8, 16}, "it goes on where the first cell ended"
    assert solution.asked == 6 * 8 / 32 + 6
    assert solution.paid == pytest.approx(paid_in(table))
    assert solution.shared == pytest.approx(6 - paid_in(table))
    assert solution.shared > 1


class Rounded(TermLosses):
    """Terms of a part are off by a little, as those of smaller batches are."""

    def loss(self, start: int, stop: int, computed: list[tuple[Mask, int, int]]) -> Loss:
        loss, off = super().loss(start, stop, computed), 0.0 if stop - start == S else 1e-3
        moved = lambda masks: ((m, [t + off for t in terms], s) for m, terms, s in loss.terms(masks))  # noqa: E731
        return replace(loss, terms=moved)


@pytest.mark.parametrize("resumed", [False, True])
def test_the_loss_of_a_result_is_that_of_whole_batches_with_a_race_too(tmp_path: Path, resumed: bool) -> None:
    solution, journal = solved(tmp_path, Rounded(term, S), Greedy(), SPACE, RACING, "raced")
    if resumed:
        solution, journal = solved(tmp_path, Rounded(term, S), Greedy(), SPACE, RACING, "raced")
    whole, alone = solved(tmp_path / "other", Rounded(term, S), Greedy(), SPACE)
    assert solution.score.mask == whole.score.mask
    assert solution.score.loss == whole.score.loss
    assert journal.scores[solution.score.mask].parts > 1, "the race has put the score together"
    assert journal.scores[solution.score.mask].loss != whole.score.loss
    assert solution.paid < whole.paid, "it is not counted"
    _, beside = solved(tmp_path, Rounded(term, S), Greedy(), SPACE, cell="plain")
    found = [{mask: score.loss for mask, score in journal.scores.items()} for journal in (beside, alone)]
    assert found[0] == found[1], "a cell without a race takes no score that a race has put together"


def test_every_decision_of_greedy_is_kept_with_its_runner_up(tmp_path: Path) -> None:
    solution, _ = solved(tmp_path, losses(), Greedy(), SPACE)
    decisions, runner_up = solution.margins["decisions"], solution.margins["runner_up"]
    assert [d["of"] for d in decisions] == [8, 7, 6]
    assert decisions[-1]["chosen"] == list(solution.score.mask.dropped)
    assert runner_up is not None
    assert decisions[-1]["next"]["dropped"] == runner_up["dropped"]
    chosen, following = (
        term(Mask(N, tuple(d))) for d in (decisions[0]["chosen"], decisions[0]["next"]["dropped"])
    )
    apart = following - chosen
    assert decisions[0]["next"]["difference"] == pytest.approx(apart.mean())
    assert decisions[0]["next"]["standard_error"] == pytest.approx(apart.std(ddof=1) / S**0.5)


def asking_for_gates(received: list[np.ndarray]) -> Algo:
    """A search that asks for gates and returns the k blocks of least squared gate gradient."""

    def script(space: Space) -> Generator[Gates, Any, Mask]:
        received.append((yield Gates()))
        order = np.argsort((received[-1] ** 2).sum(0), kind="stable")
        return space.drop(*(int(i) for i in order[: space.k]))

    return Scripted(script)


def test_gates_are_the_gradient_if_there_is_one_and_are_computed_once(tmp_path: Path) -> None:
    gradient = np.arange(S * N, dtype=float).reshape(S, N) / 7
    table, received = losses(gradient), list[np.ndarray]()
    algo = asking_for_gates(received)
    for _ in range(2):
        solved(tmp_path, table, algo, SPACE)
        np.testing.assert_array_equal(received[-1], gradient)
    assert table.gradients == 1, "a resumed search reads the gradients of the first one"
    for damaged in ("[[1]]", "nothing", f"[{', '.join(['[NaN' + ', 1' * (N - 1) + ']'] * S)}]"):
        (tmp_path / "cell" / "gates.json").write_text(damaged)
        with pytest.raises(DamagedError, match=r"gates\.json"):
            solved(tmp_path, table, algo, SPACE)


def test_gates_that_are_not_finite_stop_the_search(tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"model\.dtype=float32"):
        solved(tmp_path, losses(np.full((S, N), np.nan)), asking_for_gates([]), SPACE)
    assert not (tmp_path / "cell" / "gates.json").exists()


def test_gates_are_the_secant_if_there_is_no_gradient(tmp_path: Path) -> None:
    received: list[np.ndarray] = []
    solution, _ = solved(tmp_path, losses(), asking_for_gates(received), SPACE)
    expected = np.array([term(Mask(N)) - term(Mask(N, (i,))) for i in range(N)]).T
    np.testing.assert_allclose(received[-1], expected)
    assert solution.asked == solution.paid == N

"""Losses over a part of the samples: stages, races, gates, and journals that are cut anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Found, Gates, Proposals
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core.errors import LossError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate
from pruning.objective import Loss
from pruning.search.choice import Racing
from pruning.search.driver import Problem, Solution, Watch, solve
from pruning.search.journal import Journal, KnownScores, Store

N, SAMPLES = 8, 32
SPACE = Space(N, 3)


class Losses:
    """Terms (samples,) of every mask; `computed` lists the parts that were computed, `again` what results scored."""

    def __init__(self, gates: bool = False, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        single, common = rng.exponential(0.5, N), rng.normal(0, 1, SAMPLES)
        self.table = {
            Mask(N, d): 3 + sum(single[list(d)]) + common + rng.normal(0, 0.1, SAMPLES)
            for k in range(N + 1)
            for d in combinations(range(N), k)
        }
        self.computed: list[tuple[Mask, int, int]] = []
        self.again: list[tuple[Mask, int, int]] = []
        self.gates = gates
        self.gradients = 0

    @property
    def whole(self) -> Loss:
        return self._loss(0, SAMPLES, self.again)

    def part(self, start: int, stop: int) -> Loss:
        return self._loss(start, stop, self.computed)

    def _loss(self, start: int, stop: int, computed: list[tuple[Mask, int, int]]) -> Loss:
        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in masks:
                computed.append((mask, start, stop))
                yield mask, self.table[mask][start:stop].tolist(), 0.5

        def gates(unit: str) -> np.ndarray:
            self.gradients += 1
            return np.arange(SAMPLES * N, dtype=float).reshape(SAMPLES, N) / 7

        size = stop - start
        return Loss(Estimate((1.0,) * size, (0,) * size), terms, gates if self.gates else None)

    @property
    def terms_paid(self) -> int:
        return sum(stop - start for _, start, stop in self.computed)


class Stages:
    """A search in stages: six masks on 4 samples, the best three on 16, the best of these on all.

    `stages` are other samples, and how many masks each keeps.
    """

    max_evaluations = None

    def __init__(self, stages: Sequence[tuple[int, int]] = ((4, 3), (16, 1))) -> None:
        self.stages = stages

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        masks = [space.drop(0, 1, i) for i in range(2, space.n_blocks)]
        for samples, kept in self.stages:
            losses = yield Ask(masks, samples=samples)
            masks = [masks[i] for i in np.argsort(losses, kind="stable")[:kept]]
        self.received = yield Ask(masks)
        return Found(masks[0], "the stages were run")

    def evaluations(self, space: Space) -> int:
        return space.n_blocks


class Everything:
    """A search of the six masks of `Stages` on all samples."""

    max_evaluations = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        masks = [space.drop(0, 1, i) for i in range(2, space.n_blocks)]
        losses = yield Ask(masks)
        return Found(masks[int(np.argmin(losses))], "six masks were scored")

    def evaluations(self, space: Space) -> int:
        return space.n_blocks - 2


def search(
    folder: Path,
    losses: Losses,
    algo: Algo,
    cell: str = "cell",
    delta: float | None = None,
    watch: Watch = lambda *_: None,
) -> tuple[Solution, Journal]:
    store = Store(folder, "key", cell, N)
    store.claim()
    (folder / cell).mkdir(exist_ok=True)
    journal = Journal.open(folder / cell / "trace.jsonl", N)
    problem = Problem(algo, SPACE, 0, Racing(delta, first=4))
    return solve(problem, losses, KnownScores(journal, store), watch), journal


def test_a_later_stage_pays_only_for_the_samples_that_are_new(tmp_path: Path) -> None:
    losses, algo = Losses(), Stages()
    solution, _ = search(tmp_path, losses, algo)
    by_mask: dict[Mask, list[tuple[int, int]]] = {}
    for mask, start, stop in losses.computed:
        by_mask.setdefault(mask, []).append((start, stop))
    assert by_mask[solution.score.mask] == [(0, 4), (4, 16), (16, 32)]
    assert losses.again == [(solution.score.mask, 0, SAMPLES)], "the final mask as a whole, for the result"
    assert sorted(map(len, by_mask.values())) == [1, 1, 1, 1, 2, 2, 3], "the dense model is scored at once"
    assert algo.received == [pytest.approx(float(losses.table[solution.score.mask].mean()))]
    assert solution.asked == pytest.approx(6 * 4 / 32 + 3 * 16 / 32 + 1)
    assert solution.paid == pytest.approx((3 * 4 + 2 * 16 + 32) / 32)
    assert solution.score.samples == tuple(losses.table[solution.score.mask].tolist())


def test_the_watch_counts_each_mask_once_whatever_the_samples(tmp_path: Path) -> None:
    counts: list[int] = []
    search(tmp_path, Losses(), Stages(), watch=lambda masks, *_: counts.append(masks))
    assert counts == [1, *range(2, 8), *(7 for _ in range(3 + 1))], "dense, six masks, two stages of the same"


def test_a_partial_score_is_marked_in_the_journal_and_never_taken_for_a_full_one(tmp_path: Path) -> None:
    losses = Losses()
    search(tmp_path, losses, Stages())
    lines = [json.loads(line) for line in (tmp_path / "cell" / "trace.jsonl").read_text().splitlines()]
    for line in lines:
        assert ("of" in line) == (len(line["samples"]) < SAMPLES)
        assert line.get("of", SAMPLES) == SAMPLES
        terms = losses.table[Mask(N, tuple(line["dropped"]))][: len(line["samples"])]
        assert line["loss"] == pytest.approx(terms.mean())
    again = Losses()
    greedy, _ = search(tmp_path, again, Greedy(), "other")
    assert greedy.score.samples == tuple(again.table[greedy.score.mask].tolist())
    assert all((start, stop) == (0, SAMPLES) for _, start, stop in again.computed), (
        "it does not put its scores together from parts, as the other cell has"
    )


def paid_in(losses: Losses) -> float:
    """The number of computed terms, without the dense model's, as a number of full losses."""
    return sum(stop - start for mask, start, stop in losses.computed if mask.dropped) / SAMPLES


@pytest.mark.parametrize("resumed", [False, True])
def test_if_two_cells_score_parts_of_a_mask_each_pays_for_its_part(tmp_path: Path, resumed: bool) -> None:
    search(tmp_path, Losses(), Stages(), "first")
    losses, one_stage = Losses(), Stages([(8, 6)])
    solution, _ = search(tmp_path, losses, one_stage, "second")
    if resumed:
        solution, _ = search(tmp_path, Losses(), one_stage, "second")
    assert {start for _, start, _ in losses.computed} == {4, 8, 16}, "it goes on where the first cell ended"
    assert solution.asked == 6 * 8 / 32 + 6
    assert solution.paid == pytest.approx(paid_in(losses))
    assert solution.shared == pytest.approx(6 - paid_in(losses))
    assert solution.shared > 1


def test_a_paid_part_still_counts_as_paid_after_another_cell_completes_the_score(tmp_path: Path) -> None:
    losses = Losses()
    search(tmp_path, losses, Stages(), "first")
    search(tmp_path, Losses(), Everything(), "second")
    again = Losses()
    solution, _ = search(tmp_path, again, Everything(), "first")
    assert again.computed == [], "the second cell has them all"
    assert solution.paid == pytest.approx(paid_in(losses))
    assert solution.shared == pytest.approx(6 - paid_in(losses))
    lines = (tmp_path / "first" / "trace.jsonl").read_text().splitlines()
    spent: dict[tuple[int, ...], float] = {}
    for line in map(json.loads, lines):
        spent[tuple(line["dropped"])] = line["seconds"]
    assert sum(spent.values()) == pytest.approx(0.5 * len(losses.computed))


@pytest.mark.parametrize("algo", [Greedy(), Beam(3)], ids=["greedy", "beam"])
def test_a_race_ends_with_the_same_mask_and_pays_less(tmp_path: Path, algo: Algo) -> None:
    plain, raced = Losses(), Losses()
    expected, _ = search(tmp_path, plain, algo, "plain")
    (tmp_path / "apart").mkdir()
    solution, journal = search(tmp_path / "apart", raced, algo, "raced", delta=0.01)
    assert (solution.score.mask, solution.score.samples) == (expected.score.mask, expected.score.samples)
    assert raced.terms_paid < 0.8 * plain.terms_paid
    assert solution.paid < expected.paid == expected.asked == solution.asked
    assert journal.scores[solution.score.mask].of is None


@pytest.mark.parametrize("resumed", [False, True])
def test_the_loss_of_a_result_is_that_of_whole_batches_with_a_race_too(tmp_path: Path, resumed: bool) -> None:
    class Rounded(Losses):
        """Terms of a part are off by a little, as those of smaller batches are."""

        def _loss(self, start: int, stop: int, computed: list[tuple[Mask, int, int]]) -> Loss:
            loss, off = super()._loss(start, stop, computed), 0.0 if stop - start == SAMPLES else 1e-3
            moved = lambda masks: ((m, [t + off for t in terms], s) for m, terms, s in loss.terms(masks))  # noqa: E731
            return replace(loss, terms=moved)

    (tmp_path / "other").mkdir()
    solution, journal = search(tmp_path, Rounded(), Greedy(), "raced", 0.05)
    if resumed:
        solution, journal = search(tmp_path, Rounded(), Greedy(), "raced", 0.05)
    whole, alone = search(tmp_path / "other", Rounded(), Greedy(), "whole")
    assert solution.score.mask == whole.score.mask
    assert solution.score.loss == whole.score.loss
    assert journal.scores[solution.score.mask].parts > 1, "the race has put the score together"
    assert journal.scores[solution.score.mask].loss != whole.score.loss
    assert solution.paid < whole.paid, "it is not counted"
    _, beside = search(tmp_path, Rounded(), Greedy(), "plain")
    losses = [{mask: score.loss for mask, score in journal.scores.items()} for journal in (beside, alone)]
    assert losses[0] == losses[1], "a cell without a race takes no score that a race has put together"


@pytest.mark.parametrize("algo", [Greedy(), Stages()], ids=["race", "stages"])
def test_a_journal_that_is_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path, algo: Algo) -> None:
    whole, journal = search(tmp_path, Losses(), algo, delta=0.01)
    data = journal.path.read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for length in {0, *(end + 1 for end in ends), *(end - 3 for end in ends)}:
        folder = tmp_path / f"cut{length}"
        shutil.copytree(tmp_path / "scores", folder / "scores")
        (folder / "cell").mkdir()
        (folder / "cell" / "trace.jsonl").write_bytes(data[:length])
        losses = Losses()
        resumed, again = search(folder, losses, algo, delta=0.01)
        assert resumed.score == whole.score
        assert resumed.margins == whole.margins
        assert (resumed.asked, resumed.paid) == (whole.asked, whole.paid)
        assert again.path.read_bytes() == data
        assert len(losses.computed) == len(ends) - data[:length].count(b"\n")


def test_every_decision_of_greedy_is_kept_with_its_runner_up(tmp_path: Path) -> None:
    losses = Losses()
    solution, _ = search(tmp_path, losses, Greedy())
    decisions = solution.margins["decisions"]
    assert [d["of"] for d in decisions] == [8, 7, 6]
    assert decisions[-1]["chosen"] == list(solution.score.mask.dropped)
    assert decisions[-1]["next"]["dropped"] == solution.margins["runner_up"]["dropped"]
    terms = losses.table[Mask(N, tuple(decisions[0]["next"]["dropped"]))]
    apart = terms - losses.table[Mask(N, tuple(decisions[0]["chosen"]))]
    assert decisions[0]["next"]["difference"] == pytest.approx(apart.mean())
    assert decisions[0]["next"]["standard_error"] == pytest.approx(apart.std(ddof=1) / SAMPLES**0.5)


class AsksForGates:
    """A search that asks for gates and returns the k blocks of least squared gate gradient."""

    max_evaluations = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        self.received = yield Gates()
        order = np.argsort((self.received**2).sum(0), kind="stable")
        return Found(space.drop(*(int(i) for i in order[: space.k])), "the gates were read")

    def evaluations(self, space: Space) -> int:
        return space.n_blocks + 1


def test_gates_are_the_gradient_if_there_is_one_and_are_computed_once(tmp_path: Path) -> None:
    losses, algo = Losses(gates=True), AsksForGates()
    search(tmp_path, losses, algo)
    first = algo.received
    search(tmp_path, losses, algo)
    assert losses.gradients == 1, "a resumed search reads the gradients of the first one"
    np.testing.assert_array_equal(first, algo.received)
    assert first.shape == (SAMPLES, N)


def test_gates_that_are_not_finite_stop_the_search(tmp_path: Path) -> None:
    class Broken(Losses):
        @property
        def whole(self) -> Loss:
            return replace(super().whole, gates=lambda _: np.full((SAMPLES, N), np.nan))

    with pytest.raises(LossError, match=r"gates is NaN or infinite: try model.dtype=float32"):
        search(tmp_path, Broken(), AsksForGates())
    assert not (tmp_path / "cell" / "gates.json").exists()


def test_gates_are_the_secant_if_there_is_no_gradient(tmp_path: Path) -> None:
    losses, algo = Losses(), AsksForGates()
    solution, _ = search(tmp_path, losses, algo)
    dense = losses.table[Mask(N)]
    expected = np.array([dense - losses.table[Mask(N, (i,))] for i in range(N)]).T
    np.testing.assert_allclose(algo.received, expected)
    assert solution.asked == solution.paid == N

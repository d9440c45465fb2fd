"""The regret of each search and the number of losses that it asks for, on small losses with pairwise terms."""

from __future__ import annotations

from statistics import mean

import pytest

from pruning.core.mask import Space
from tests.algo.test_contract import NEVER_WORSE_THAN_ONE_SHOT, OPTIMAL, configured, drive, optimum, pairwise

SPACE, SEEDS, STRENGTH = Space(12, 4), 8, 2.0
Table = dict[str, list[tuple[float, int]]]


@pytest.fixture(scope="module")
def table() -> Table:
    """For each search and seed, the regret over the optimum and the number of losses asked for."""
    losses = [pairwise(SPACE.n_blocks, seed, STRENGTH) for seed in range(SEEDS)]
    least = [loss(optimum(SPACE, loss)) for loss in losses]
    rows: Table = {}
    for name, algo in configured().items():
        runs = [drive(algo, SPACE, loss, seed) for seed, loss in enumerate(losses)]
        regrets = [loss(run.answer) - best for run, loss, best in zip(runs, losses, least, strict=True)]
        rows[name] = list(zip(regrets, (len(run.asked) for run in runs), strict=True))
    return rows


def test_the_table_is_printed(table: Table) -> None:
    print(f"\n{SPACE.n_blocks} blocks, k = {SPACE.k}, {SPACE.size} masks, {SEEDS} losses with pairwise terms")  # noqa: T201
    print(f"{'search':<18}{'mean regret':>12}{'optimum':>9}{'losses asked':>14}")  # noqa: T201
    for name, runs in sorted(table.items(), key=lambda row: mean(regret for regret, _ in row[1])):
        hits = sum(regret < 1e-9 for regret, _ in runs)
        regret, asked = mean(r for r, _ in runs), mean(n for _, n in runs)
        print(f"{name:<18}{regret:>12.4f}{hits:>6}/{SEEDS}{asked:>14.1f}")  # noqa: T201


def test_the_optimum_is_never_beaten(table: Table) -> None:
    assert all(regret > -1e-9 for runs in table.values() for regret, _ in runs)


@pytest.mark.parametrize("name", sorted(OPTIMAL))
def test_exact_searches_have_no_regret(table: Table, name: str) -> None:
    assert [regret for regret, _ in table[name]] == [0.0] * SEEDS


@pytest.mark.parametrize("name", sorted(NEVER_WORSE_THAN_ONE_SHOT))
def test_searches_that_start_from_one_shot_are_never_worse(table: Table, name: str) -> None:
    assert all(a <= b for (a, _), (b, _) in zip(table[name], table["one_shot"], strict=True))


def test_local_search_is_never_worse_than_greedy(table: Table) -> None:
    assert all(a <= b for (a, _), (b, _) in zip(table["local_search"], table["greedy"], strict=True))


@pytest.mark.parametrize(
    "name", ["annealing", "bayesian", "beam", "evolution", "genetic", "greedy", "local_search"]
)
def test_searches_that_see_interactions_are_better_on_average(table: Table, name: str) -> None:
    assert mean(regret for regret, _ in table[name]) < mean(regret for regret, _ in table["one_shot"]) / 2

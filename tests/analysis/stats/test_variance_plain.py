"""The statistics of figure 5 equal their plain form, on random grids with missing cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import components, mask_overlap, variance
from analysis.stats.components import RESIDUAL, SOURCES, adjusted, sequential, shares, strata
from analysis.stats.grid import STRATUM, labels
from analysis.stats.projections import Subspaces, of_masks
from analysis.stats.variance import BETWEEN, Shuffle, between
from tests.helpers import plain_variance
from tests.helpers.analysis_grid import effect, frame, with_masks

EXACT: dict[str, Any] = {"rel": 1e-10, "abs": 1e-12}


def study(seed: int) -> tuple[pd.DataFrame, Any]:
    """A grid of two models and ratios with a sixth of its cells missing, and a number for each cell."""
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=4, algos=3, models=("a", "b"), ks=(3, 6))
    cells = with_masks(cells, np.arange(30) + rng.normal(0, 4, (len(cells), 30)))
    cells = cells[rng.random(len(cells)) > 1 / 6].reset_index(drop=True)
    sizes = (["objective"], ["algo"], ["model", "draw", "calibration"])
    return cells, rng.normal(size=len(cells)) + sum(effect(cells, c, 0.7, rng) for c in sizes)


@pytest.fixture(params=[(0, False), (1, False), (0, True), (1, True)], ids=lambda p: f"{p[0]}-{p[1]}")
def outcome(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, Any]:
    """A study and its numbers, or None for its masks."""
    seed, masks = request.param
    cells, y = study(seed)
    return cells, None if masks else y


def grams(cells: pd.DataFrame, y: Any, by: Any = STRATUM) -> list[Any]:
    return [
        plain_variance.gram(cells.iloc[rows], None if y is None else y[rows]) for rows in strata(cells, by)
    ]


def test_coordinates_are_those_of_all_pairs_of_cells(outcome: tuple[pd.DataFrame, Any]) -> None:
    for c, g in zip(variance.outcome(*outcome), grams(*outcome), strict=True):
        np.testing.assert_allclose((c.x * c.signs) @ c.x.T, g, atol=1e-11)


def test_repeated_masks_need_no_more_coordinates() -> None:
    cells, _ = study(0)
    masks = mask_overlap.masks(cells[cells["k"] == 3].iloc[:8])
    few, many = of_masks(masks), of_masks(masks * 50)
    assert many.x.shape[1] == few.x.shape[1] < 8
    assert many.total == pytest.approx(50 * few.total)


@pytest.mark.parametrize("seed", range(3))
def test_spans_are_the_projections_onto_dense_bases(seed: int) -> None:
    cells, _ = study(seed)
    for source in (*SOURCES, *BETWEEN):
        plain = plain_variance.projection(cells, source.columns, source.given)
        added = Subspaces(cells).addition(source.columns, source.given)
        assert added.df == round(float(np.trace(plain))), source.name
        np.testing.assert_allclose(added.fit(np.eye(len(cells))), plain, atol=1e-10, err_msg=source.name)
        q = added.span.along(np.eye(len(cells)))
        np.testing.assert_allclose(q @ q.T, np.eye(added.span.df), atol=1e-10)


def test_sources_add_up_and_are_adjusted_for_each_other() -> None:
    cells, _ = study(2)
    part = cells.iloc[strata(cells)[0]]
    together = sum(added.fit(np.eye(len(part))) for added in sequential(Subspaces(part)).values())
    np.testing.assert_allclose(together, np.eye(len(part)) - 1 / len(part), atol=1e-10)
    plain = plain_variance.marginal(part)
    for name, added in adjusted(Subspaces(part)).items():
        np.testing.assert_allclose(added.fit(np.eye(len(part))), plain[name], atol=1e-10, err_msg=name)


def test_sums_of_squares(outcome: tuple[pd.DataFrame, Any]) -> None:
    cells, _ = outcome
    table = variance.table(cells, variance.outcome(*outcome), permutations=1).set_index("source")
    parts = [plain_variance.marginal(cells.iloc[rows]) for rows in strata(cells)]
    for name in (*(s.name for s in SOURCES), RESIDUAL):
        plain = sum(np.sum(part[name] * g) for part, g in zip(parts, grams(*outcome), strict=True))
        assert table.loc[name, "marginal_ss"] == pytest.approx(plain, **EXACT)


def test_a_form_gives_the_sums_of_squares_of_each_resample(outcome: tuple[pd.DataFrame, Any]) -> None:
    cells, _ = outcome
    weights = plain_variance.drawn_weights(cells, 5, seed=3)
    resampled = plain_variance.resamples(cells, grams(*outcome), STRATUM, weights)
    moved = components.Draws(cells, STRATUM).moves(variance.outcome(*outcome))
    for i, rows in enumerate(strata(cells)):
        part = cells.iloc[rows]
        plain = plain_variance.marginal(part)
        for name, added in adjusted(Subspaces(part)).items():
            form = moved[i].added_form(added)
            expected = [np.sum(plain[name] * each[i]) for each in resampled]
            assert components.explained(weights, form) == pytest.approx(expected, **EXACT), name


def test_shares_with_intervals(outcome: tuple[pd.DataFrame, Any]) -> None:
    cells, _ = outcome
    estimated = shares(cells, variance.outcome(*outcome), resamples=40, seed=1)
    parts = [plain_variance.marginal(cells.iloc[rows]) for rows in strata(cells)]
    # The equation of the residual has no other component: in each stratum, its component is its mean square.
    means = [
        np.sum(p[RESIDUAL] * g) / np.trace(p[RESIDUAL]) for p, g in zip(parts, grams(*outcome), strict=True)
    ]
    component = estimated.sources.set_index("source").loc[RESIDUAL, "component"]
    assert component == pytest.approx(np.mean(means), **EXACT)
    assert not np.isnan(estimated.parts["search"].low)


@pytest.mark.parametrize("masks", [False, True])
def test_between_models_and_ratios(masks: bool) -> None:
    cells, y = study(3)
    by = ["model"] if masks else []
    table = between(cells, None if masks else y, by, permutations=30).set_index("source")
    of = grams(cells, None if masks else y, by)
    weights = plain_variance.drawn_weights(cells, 30, seed=0)
    every = [of, *plain_variance.resamples(cells, of, by, weights)]
    total = np.array([sum(float(np.trace(g - g.mean(0))) for g in gs) for gs in every])
    for source in BETWEEN:
        added = [
            plain_variance.projection(cells.iloc[rows], source.columns, source.given)
            for rows in strata(cells, by)
        ]
        if table.loc[source.name, "df"] == 0:
            continue
        plain = [sum(float(np.sum(p * g)) for p, g in zip(added, gs, strict=True)) for gs in every] / total
        assert table.loc[source.name, "share"] == pytest.approx(plain[0], **EXACT)
        wider = stats.t.ppf(0.975, components.count(cells) - 1) / stats.norm.ppf(0.975)
        likely = plain[0] - wider * (plain[1:] - plain[1:].mean())
        ends = np.clip(np.quantile(likely, [0.025, 0.975]), 0, 1)
        assert table.loc[source.name, ["low", "high"]].tolist() == pytest.approx(ends.tolist(), **EXACT)


@pytest.mark.parametrize("source", [s for s in (*SOURCES, *BETWEEN) if s.moved], ids=lambda s: s.name)
def test_permuted_labels_explain_what_dense_bases_say(source: Any) -> None:
    cells, y = study(5)
    for values in (y, None):
        by = ["model"] if values is None or source not in BETWEEN else []
        of, plain = variance.outcome(cells, values, by), grams(cells, values, by)
        shuffle = Shuffle(cells, source)
        moved = np.vstack([shuffle.values, shuffle.draws(np.random.default_rng(0), 4)])
        parts = variance.exchanges(cells, of, source, by)
        fast = sum(variance._explained(shuffle.levels(moved, p.rows), p.given, p.rest) for p in parts)
        slow = [
            sum(plain_variance.explained(cells.iloc[rows], shuffle.levels(moved, rows)[draw], source, g)
                for rows, g in zip(strata(cells, by), plain, strict=True))
            for draw in range(len(moved))
        ]  # fmt: skip
        assert fast == pytest.approx(slow, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("algos", [1, 2, 9])
def test_levels_can_be_fitted_before_or_after_the_given_columns(algos: int) -> None:
    """Draws: 5 levels and `algos` given columns in each configuration. The smaller of the two is inverted."""
    cells = frame(objectives=1, data=1, draws=5, algos=algos, models=("a", "b"))
    rng = np.random.default_rng(algos)
    cells = cells[rng.random(len(cells)) > (0.2 if algos > 1 else 0)].reset_index(drop=True)
    y, source = rng.normal(size=len(cells)), next(s for s in SOURCES if s.moved == "draw")
    (a, b), (first, second) = (
        strata(cells),
        variance.exchanges(cells, variance.outcome(cells, y), source, STRATUM),
    )
    for rows, part, g in zip((a, b), (first, second), grams(cells, y), strict=True):
        levels = np.array([rng.permutation(cells["draw"].to_numpy()[rows]) for _ in range(6)])
        slow = [plain_variance.explained(cells.iloc[rows], draw, source, g) for draw in levels]
        assert variance._explained(levels, part.given, part.rest) == pytest.approx(slow, rel=1e-9, abs=1e-9)


def test_a_draw_is_tested_apart_for_each_configuration_and_an_algorithm_is_not() -> None:
    apart = {source.name: source.apart for source in SOURCES}
    assert apart["draw (seed)"] == ["objective", "calibration", "samples", "length"]
    assert [name for name, columns in apart.items() if columns] == ["draw (seed)"]
    assert not any(source.apart for source in BETWEEN)


def test_levels_are_those_of_a_plain_group_number() -> None:
    cells, _ = study(6)
    cells.loc[::3, "length"] = np.nan
    columns = ["objective", "calibration", "samples", "length", "draw"]
    plain = cells.groupby(columns, dropna=False, sort=True).ngroup().to_numpy()
    np.testing.assert_array_equal(labels(cells, columns), plain)

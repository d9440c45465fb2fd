"""Sums of squares and permutation tests: against published values, statsmodels, and their plain form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import components, mask_overlap, variance
from analysis.stats.components import RESIDUAL, SOURCES, adjusted, sequential, shares, strata
from analysis.stats.grid import STRATUM, labels
from analysis.stats.projections import Subspaces, of_distances, of_masks, of_values
from analysis.stats.variance import BETWEEN, Shuffle, between
from tests.helpers import plain_variance
from tests.helpers.analysis_grid import effect, frame, with_masks

# -- the algebra, against published values and a second library ----------------------------------------------

TIES = [[0, 1, 1, 4], [1, 0, 3, 2], [1, 3, 0, 3], [4, 2, 3, 0]]
NO_TIES = [[0, 1, 5, 4], [1, 0, 3, 2], [5, 3, 0, 3], [4, 2, 3, 0]]
UNEQUAL = [
    [0.0, 1.0, 0.1, 0.5678, 1.0, 1.0],
    [1.0, 0.0, 0.002, 0.42, 0.998, 0.0],
    [0.1, 0.002, 0.0, 1.0, 0.123, 1.0],
    [0.5678, 0.42, 1.0, 0.0, 0.123, 0.43],
    [1.0, 0.998, 0.123, 0.123, 0.0, 0.5],
    [1.0, 0.0, 1.0, 0.43, 0.5, 0.0],
]


@pytest.mark.parametrize(
    ("distances", "groups", "published"),
    [(TIES, "aabb", 2.0), (NO_TIES, "aabb", 4.4), (UNEQUAL, "abcbaa", 0.578848)],
)
def test_pseudo_f_of_permanova_as_scikit_bio_and_vegan_have_it(
    distances: list[list[float]], groups: str, published: float
) -> None:
    of = of_distances(distances)
    cells = pd.DataFrame({"group": list(groups)})
    added = Subspaces(cells).addition(["group"], ())
    ss, df = added.squares(of), added.df
    rest = of.total - ss
    assert ss / df / (rest / (len(groups) - 1 - df)) == pytest.approx(published, abs=1e-6)


def unbalanced(seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """A grid with a fifth of its cells missing, with all kinds of effects."""
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=3, algos=4)
    cells = cells[rng.random(len(cells)) > 0.2].reset_index(drop=True)
    effects = (["objective"], ["algo"], ["objective", "algo"], ["objective", "calibration"])
    return cells, sum(effect(cells, c, 1.0, rng) for c in effects) + rng.normal(size=len(cells))


def test_sums_of_squares_equal_statsmodels_on_an_unbalanced_grid() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.formula.api import ols
        from statsmodels.stats.anova import anova_lm
    cells, y = unbalanced()
    cells["y"] = y
    cells["setting"] = labels(cells, ["objective", "calibration", "draw"])
    terms = "C(objective) + C(objective):C(calibration) + C(setting) + C(algo) + C(objective):C(algo)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the nested coding has redundant columns
        fit = ols(f"y ~ {terms}", cells).fit()
        smaller = ols("y ~ C(setting) + C(algo)", cells).fit()
        first = anova_lm(ols("y ~ C(objective)", cells).fit())
    g = [of_values(y)]
    table = variance.table(cells, g, permutations=9).set_index("source")
    assert table.loc["draw x algorithm, rest", "ss"] == pytest.approx(fit.ssr)
    assert table.loc["draw x algorithm, rest", "df"] == fit.df_resid
    assert table.loc["objective", "ss"] == pytest.approx(first.loc["C(objective)", "sum_sq"])
    assert table.loc["objective x algorithm", "marginal_ss"] == pytest.approx(smaller.ssr - fit.ssr)
    assert table["ss"].sum() == pytest.approx(np.sum((y - y.mean()) ** 2))


# -- permutation tests -----------------------------------------------------------------------------------------


def p_values(effects: Sequence[Sequence[str]], runs: int = 40) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {s.name: [] for s in SOURCES}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        cells = frame(objectives=2, data=2, draws=3, algos=3)
        y = sum((effect(cells, columns, 2.0, rng) for columns in effects), rng.normal(size=len(cells)))
        g = [of_values(y)]
        for source in SOURCES:
            if source.name not in ("samples", "length"):
                results[source.name].append(variance.p_value(cells, g, source, STRATUM, 99, seed)[0])
    return results


def test_p_values_are_uniform_where_nothing_matters() -> None:
    for name, values in p_values([]).items():
        if values:
            assert np.mean(np.array(values) <= 0.05) <= 0.15, name
            assert 0.35 < np.mean(values) < 0.68, name


def test_an_effect_is_found_where_it_is_and_nowhere_else() -> None:
    found_p = p_values([["algo"]], runs=12)
    assert np.median(found_p["algorithm"]) <= 0.02
    assert np.mean(found_p["objective"]) > 0.3
    assert np.mean(found_p["objective x algorithm"]) > 0.3


def test_draws_are_the_units_of_the_objective() -> None:
    """Draws differ and objectives do not. If cells were the units, the objective would be significant."""
    values = p_values([["objective", "calibration", "draw"]], runs=30)
    assert np.mean(np.array(values["objective"]) <= 0.05) <= 0.15
    assert np.median(values["draw (seed)"]) <= 0.05


def test_a_test_that_cannot_reject_is_refused() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=3)
    g = variance.outcome(cells, np.arange(len(cells)))
    p, note = variance.p_value(cells, g, SOURCES[0], STRATUM)
    assert math.isnan(p)
    assert "3 arrangements" in note  # two draws each: 6 ways, halved because names do not matter


def test_differences_between_models_and_ratios() -> None:
    rng = np.random.default_rng(0)
    cells = frame(models=("a", "b"), ks=(3, 6))
    y = 3.0 * (cells["model"] == "a") + effect(cells, ["model", "objective"], 1.0, rng)
    table = between(cells, y + rng.normal(0, 0.5, len(cells)), permutations=99).set_index("source")
    assert table.loc["model", "p"] == 0.01
    assert table.loc["model x objective", "p"] == 0.01
    assert table.loc["ratio x algorithm", "p"] > 0.05


def test_the_exhaustive_search_is_no_level_of_the_algorithm() -> None:
    from analysis.figures.fig5_variance_shares import MASKS, across, measure

    rng = np.random.default_rng(3)
    cells = frame(objectives=2, data=2, draws=3, algos=3)
    cells = with_masks(cells, rng.normal(size=(len(cells), 30)))
    more = pd.concat([cells, cells.iloc[:5].assign(algo="exhaustive")], ignore_index=True)
    for tables in (
        lambda c: measure(c, {MASKS: (None, STRATUM)})[1],
        lambda c: across(c, {MASKS: (None, STRATUM)}),
    ):
        pd.testing.assert_frame_equal(tables(cells), tables(more))


def test_masks_of_one_model_differ_between_ratios() -> None:
    """If each size removes other blocks, that is an effect of the ratio, not of the objective or the search."""
    rng = np.random.default_rng(1)
    cells = frame(models=("a", "b"), ks=(5, 6), data=1, algos=3)
    importance = rng.normal(0, 0.05, (len(cells), 30))
    importance[:, :6] -= 3.0 * (cells["k"] == 5).to_numpy()[:, None]  # other blocks for each size
    importance[:, 10:16] -= 3.0 * (cells["k"] == 6).to_numpy()[:, None]
    table = between(with_masks(cells, importance), None, ["model"], permutations=99).set_index("source")
    assert table.loc["ratio", "p"] == 0.01
    assert table.loc["ratio", "share"] > 0.9
    assert table.loc["ratio x objective", "p"] > 0.05
    assert table.loc["model", "df"] == 0
    assert math.isnan(table.loc["model", "share"])


def test_every_outcome_is_compared_across_models_and_ratios_if_it_has_a_distance() -> None:
    from analysis.figures.fig5_variance_shares import LOSS, MASKS, across

    rng = np.random.default_rng(2)
    cells = frame(models=("a", "b"), ks=(3, 6), objectives=2, data=1, draws=2, algos=3)
    cells = with_masks(cells, rng.normal(size=(len(cells), 30)))
    loss, accuracy = (
        pd.Series(rng.normal(size=len(cells)) + size * (cells["k"] == 6)) for size in (9.0, 0.0)
    )
    table = across(cells, {MASKS: (None, STRATUM), LOSS: (loss, STRATUM), "accuracy": (accuracy, STRATUM)})
    rows = table.set_index(["outcome", "source"])
    assert set(rows.index.get_level_values("outcome")) == {MASKS, LOSS, "accuracy"}
    assert rows.loc[(LOSS, "ratio"), "q"] <= 0.05 < rows.loc[("accuracy", "ratio"), "q"]
    assert "within one model only" in rows.loc[(MASKS, "model x ratio"), "note"]
    assert "within one objective only" in rows.loc[(LOSS, "model x objective"), "note"]
    assert rows.loc[("accuracy", "model x objective"), "note"] == ""
    assert not math.isnan(rows.loc[(MASKS, "ratio x algorithm"), "p"])


def test_units_and_compensations_of_one_model_are_no_models() -> None:
    from analysis.figures.fig5_variance_shares import across

    cells = frame(models=("a", "a (sublayer)", "b", "b (sublayer)"), objectives=1, data=1, draws=3, algos=3)
    noise = pd.Series(np.random.default_rng(0).normal(size=len(cells)))
    units = 9.0 * cells["model"].str.contains("sublayer") + noise
    first, second = (across(cells, {"accuracy": (y, STRATUM)}).set_index("source") for y in (units, noise))
    assert first.loc["model", "df"] == 2, "a against b, within each kind of units"
    assert first.loc["model", "ss"] == pytest.approx(second.loc["model", "ss"])
    one = across(cells[cells["model"].str.startswith("a")], {"accuracy": (units, STRATUM)}).set_index(
        "source"
    )
    assert one.loc["model", "df"] == 0


@pytest.mark.slow
def test_intervals_of_models_and_ratios_cover_what_they_should() -> None:
    """Coverage over 60 studies of the same panel with new draws. The mean share is taken as the truth."""
    panel = np.random.default_rng(5)
    cells = frame(objectives=2, data=2, draws=4, algos=3, models=("a", "b"), ks=(3, 6))
    fixed = 2.0 * (cells["model"] == "a") + effect(cells, ["ratio", "algo"], 0.7, panel)
    studies = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = fixed + effect(cells, ["calibration", "draw"], 0.4, rng) + rng.normal(0, 0.5, len(cells))
        studies.append(between(cells, y, permutations=60, seed=seed).set_index("source"))
    for source in ("model", "ratio", "ratio x algorithm"):
        truth = np.mean([study.loc[source, "share"] for study in studies])
        covered = [study.loc[source, "low"] <= truth <= study.loc[source, "high"] for study in studies]
        assert np.mean(covered) >= 0.8, source
        assert np.mean([study.loc[source, "high"] - study.loc[source, "low"] for study in studies]) < 0.35


def test_models_and_ratios_have_no_interval_with_too_few_draws() -> None:
    cells = frame(models=("a", "b"), ks=(3, 6), data=1, draws=3)
    table = between(cells, np.random.default_rng(0).normal(size=len(cells)), permutations=20)
    assert table["low"].isna().all()
    assert table["share"].notna().any()


# -- equal to their plain form, on random grids with missing cells -------------------------------------------------

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

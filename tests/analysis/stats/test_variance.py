from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats import variance
from analysis.stats.components import SOURCES
from analysis.stats.grid import STRATUM, labels
from analysis.stats.projections import Subspaces, of_distances, of_values
from analysis.stats.variance import between
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

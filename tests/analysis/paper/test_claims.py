from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.paper import check
from analysis.paper.check import AGREES, DISAGREES, OPEN, Statement
from analysis.stats.agreement import Agreement


def test_every_published_number_is_reproduced() -> None:
    numbers = [*check.correlations(), *check.variances(), *check.averages()]
    assert len(numbers) == 6 + 12 + 2
    assert [number.what for number in numbers if not number.reproduced] == []


def test_a_wrong_number_is_reported_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    read = check.read

    def changed(name: str) -> pd.DataFrame:
        table = read(name)
        if name == "figure3_variance":
            table.loc[0, "published_variance"] = 1.9
        return table

    monkeypatch.setattr(check, "read", changed)
    text, status = check.report()
    assert status == 1
    assert sum("not reproduced" in line for line in text) == 1


def statement(part: str) -> Statement:
    (match,) = [s for s in check.statements() if part in s.claim]
    return match


def test_ranges_of_accuracy_are_judged_beyond_the_noise_of_the_items() -> None:
    ranges = statement("1-3 percentage points")
    for value in ("3.3", "2.0", "4.8", "3.0", "5.6", "7.5"):
        assert f" {value}" in ranges.facts[0]
    # The sd of a mean of six accuracies near 60 percent is about 0.44 points; the 95 percent quantile of the range of
    # six normal numbers is 4.03 standard deviations. So only 4.8, 5.6 and 7.5 are above 3 + 1.8, and no range is
    # certain to be between 1 and 3.
    assert (
        "2 of 6 cells are between 1 and 3; whatever the noise, 0 are between 1 and 3 and 3" in ranges.facts[1]
    )
    assert "1.7 to 1.8 points" in ranges.facts[2]
    assert ranges.verdict == OPEN, "three of six are not most"


def test_noise_of_a_range_is_that_of_simulated_answers() -> None:
    (_, cell) = next(iter(check.cells(check.pruned("table1_accuracy"))))
    rng, ranges = np.random.default_rng(0), []
    for _ in range(2000):  # every search has the mean accuracy of each task; one of the seven is a duplicate
        means = [rng.binomial(n, cell[t].mean() / 100, 6) / n for t, n in check.ITEMS.items()]
        ranges.append(100 * np.ptp(np.mean(means, axis=0)))
    assert check._span(cell).noise == pytest.approx(np.quantile(ranges, 0.95), rel=0.05)


def test_accuracies_are_whole_numbers_of_items_of_the_whole_test_sets() -> None:
    table = check.read("table1_accuracy")
    for task, n in check.ITEMS.items():
        shares = 100 * (table[task] / 100 * n).round() / n
        assert (shares.round(2) - table[task]).abs().max() < 0.0051
        if task != "hellaswag":  # so many items that every number of two digits fits
            one_more = 100 * (table[task] / 100 * (n + 1)).round() / (n + 1)
            assert (one_more.round(2) - table[task]).abs().max() > 0.0051


def test_the_margin_does_not_predict_accuracy() -> None:
    proxy = statement("proxy of downstream accuracy")
    assert (
        "0.42, llama3 M9 0.31, llama3.1 M7 -0.53, llama3.1 M9 0.31, qwen3 M7 0.41, qwen3 M9 -0.44"
        in proxy.facts[0]
    )
    assert "in 1 of 6 cells" in proxy.facts[2]
    assert proxy.verdict == OPEN, "seven points a cell: chance explains all six correlations"


def test_five_of_six_is_right_and_not_evidence() -> None:
    assert statement("'five of six'").verdict == AGREES
    evidence = statement("these correlations show")
    assert evidence.verdict == OPEN
    assert "negative signs: 0.11" in evidence.facts[0]  # 7 / 64
    assert "llama3 M7 0.052" in evidence.facts[1]


def test_six_searches_and_their_duplicates() -> None:
    assert "in 6 of 6 cells" in statement("seven distinct results").facts[1]
    assert statement("duplicate masks").verdict == DISAGREES


def test_the_cost_model_of_table_3() -> None:
    assert "8,276 s" in statement("CBO is the cited method").facts[1]


def test_the_report_is_the_whole_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 0
    assert "20 of 20 reproduced" in capsys.readouterr().out


def test_published_values_are_found_by_the_names_of_this_project() -> None:
    table = check.read("table1_accuracy")
    assert check.value(table, "average", "llama3_1", 7, "beam") == 58.62
    assert pd.isna(check.value(table, "average", "smollm2", 7, "beam"))


def test_statements_of_v3_are_not_judged_by_the_tables_of_v1() -> None:
    assert not any("v3" in s.claim for s in check.statements())


def test_thresholds_that_the_paper_does_not_give_are_named_as_ours() -> None:
    for part in ("near ties on C4", "CBO is the cited method", "1-3 percentage points", "prior-guided GA", "proxy of",
                 "these correlations show", "what pruning costs"):  # fmt: skip
        assert any("our" in fact for fact in statement(part).facts)


def test_a_level_is_named_as_ours_wherever_it_stands() -> None:
    for each in check.statements():
        if any("0.05" in fact for fact in each.facts):
            assert any("our level is 0.05" in fact for fact in each.facts)


def test_searches_that_end_worse_count_only_beyond_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = statement("prior-guided GA")
    assert found.verdict == OPEN
    assert "margin 7 of 12, C4 perplexity 1 of 12" in found.facts[0]
    at_least_seven = sum(math.comb(12, n) for n in range(7, 13)) / 2**12
    assert f"margin {at_least_seven:.2f}" in found.facts[1]
    table = check.pruned

    def changed(better: float) -> None:
        def read(name: str) -> pd.DataFrame:
            rows = table(name)
            moved = rows["algo"].isin(("genetic", "bayesian"))
            column = "margin" if name == "table1_accuracy" else "c4"
            return rows.assign(**{column: rows[column].where(~moved, -better * 1000)})

        monkeypatch.setattr(check, "pruned", read)

    changed(1.0)
    assert check.elitist().verdict == AGREES
    changed(-1.0)
    assert check.elitist().verdict == DISAGREES


def test_a_better_margin_than_the_whole_model_is_counted_but_decides_nothing_without_errors() -> None:
    found = statement("what pruning costs")
    assert found.verdict == OPEN
    assert found.facts[0].endswith("llama3 1 of 14, llama3.1 2 of 14, qwen3 9 of 14")


@pytest.mark.parametrize(
    ("signs", "p", "verdict"),
    [
        ((0.9, 0.9), 0.01, AGREES),
        ((0.9, -0.9), 0.01, DISAGREES),
        ((0.9, -0.9), 0.5, OPEN),
    ],
)
def test_correlations_decide_only_beyond_chance(signs: tuple[float, ...], p: float, verdict: str) -> None:
    assert check._of_signs([Agreement(sign, p, -1, 1, 7, True) for sign in signs]) == verdict

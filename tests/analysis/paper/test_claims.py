from __future__ import annotations

import pandas as pd
import pytest

from analysis.paper import check, claims, published
from analysis.stats.agreement import Agreement


def test_every_published_number_is_reproduced() -> None:
    numbers = [*check.correlations(), *check.variances(), *check.averages()]
    assert len(numbers) == 6 + 12 + 2
    assert [number.what for number in numbers if not number.reproduced] == []


def test_a_wrong_number_is_reported_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    read = published.read

    def changed(name: str) -> pd.DataFrame:
        table = read(name)
        if name == "figure3_variance":
            table.loc[0, "published_variance"] = 1.9
        return table

    monkeypatch.setattr(check, "read", changed)
    text, status = check.report()
    assert status == 1
    assert sum("not reproduced" in line for line in text) == 1


def statement(part: str) -> claims.Statement:
    (match,) = [s for s in claims.statements() if part in s.claim]
    return match


def test_ranges_of_accuracy() -> None:
    ranges = statement("1-3 percentage points")
    assert ranges.verdict == claims.DISAGREES
    for value in ("3.3", "2.0", "4.8", "3.0", "5.6", "7.5"):
        assert f" {value}" in ranges.facts[0]


def test_the_margin_does_not_predict_accuracy() -> None:
    proxy = statement("proxy of downstream accuracy")
    assert (
        "0.42, llama3 M9 0.31, llama3.1 M7 -0.53, llama3.1 M9 0.31, qwen3 M7 0.41, qwen3 M9 -0.44"
        in proxy.facts[0]
    )
    assert "in 1 of 6 cells" in proxy.facts[2]
    assert proxy.verdict == claims.OPEN, "seven points a cell: chance explains all six correlations"


def test_five_of_six_is_right_and_not_evidence() -> None:
    assert statement("'five of six'").verdict == claims.AGREES
    evidence = statement("these correlations show")
    assert evidence.verdict == claims.OPEN
    assert "negative signs: 0.11" in evidence.facts[0]  # 7 / 64
    assert "llama3 M7 0.052" in evidence.facts[1]


def test_six_searches_and_their_duplicates() -> None:
    assert "in 6 of 6 cells" in statement("seven searches").facts[0]
    assert statement("duplicate masks").verdict == claims.DISAGREES


def test_the_cost_model_of_table_3() -> None:
    assert "8,276 s" in statement("CBO is the cited method").facts[1]


def test_the_report_is_the_whole_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 0
    assert "20 of 20 reproduced" in capsys.readouterr().out


def test_published_values_are_found_by_the_names_of_this_project() -> None:
    table = published.read("table1_accuracy")
    assert published.value(table, "average", "llama3_1", 7, "beam") == 58.62
    assert pd.isna(published.value(table, "average", "smollm2", 7, "beam"))


def test_statements_of_v3_are_not_judged_by_the_tables_of_v1() -> None:
    assert not any("v3" in s.claim for s in claims.statements())


def test_thresholds_that_the_paper_does_not_give_are_named_as_ours() -> None:
    for part in ("near ties on C4", "CBO is the cited method"):
        assert any("our" in fact for fact in statement(part).facts)


@pytest.mark.parametrize(
    ("signs", "p", "verdict"),
    [
        ((0.9, 0.9), 0.01, claims.AGREES),
        ((0.9, -0.9), 0.01, claims.DISAGREES),
        ((0.9, -0.9), 0.5, claims.OPEN),
    ],
)
def test_correlations_decide_only_beyond_chance(signs: tuple[float, ...], p: float, verdict: str) -> None:
    assert claims._of_signs([Agreement(sign, p, -1, 1, 7, True) for sign in signs]) == verdict

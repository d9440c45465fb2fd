from __future__ import annotations

import pandas as pd
import pytest

from analysis.paper import check, claims, published


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
    assert sum("NOT REPRODUCED" in line for line in text) == 1


def statement(part: str) -> claims.Statement:
    (match,) = [s for s in claims.statements() if part in s.claim]
    return match


def test_ranges_of_accuracy() -> None:
    ranges = statement("1-3 percentage points")
    assert not ranges.holds
    for value in ("3.3", "2.0", "4.8", "3.0", "5.6", "7.5"):
        assert f" {value}" in ranges.facts[0]


def test_the_margin_does_not_predict_accuracy() -> None:
    proxy = statement("proxy of downstream accuracy")
    assert (
        "0.42, llama3 M9 0.31, llama3.1 M7 -0.53, llama3.1 M9 0.31, qwen3 M7 0.41, qwen3 M9 -0.44"
        in proxy.facts[0]
    )
    assert "in 1 of 6 cells" in proxy.facts[2]


def test_five_of_six_is_right_and_not_evidence() -> None:
    assert statement("'five of six'").holds
    evidence = statement("these correlations show")
    assert not evidence.holds
    assert "negative signs: 0.11" in evidence.facts[0]  # 7 / 64
    assert "llama3 M7 0.052" in evidence.facts[1]


def test_six_searches_and_their_duplicates() -> None:
    assert "in 6 of 6 cells" in statement("seven searches").facts[0]
    assert not statement("duplicate masks").holds


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

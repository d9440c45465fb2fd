"""The paper's numbers are reproduced from its tables."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.paper import check


def test_every_published_number_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [*check.correlations(), *check.variances(), *check.averages()]
    assert len(numbers) == 6 + 12 + 2
    assert [number.what for number in numbers if not number.reproduced] == []
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 0
    assert "20 of 20 reproduced" in capsys.readouterr().out


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


def test_published_values_are_found_by_the_names_of_this_project() -> None:
    table = check.read("table1_accuracy")
    assert check.value(table, "average", "llama3_1", 7, "beam") == 58.62
    assert pd.isna(check.value(table, "average", "smollm2", 7, "beam"))

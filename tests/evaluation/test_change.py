"""How a metric of a smaller model differs from the dense model's: paired errors, and the word."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from pruning.evaluation.change import changes

DENSE = {"ppl/a": math.e**2, "ppl/a/stderr": 1.0, "acc/b": 0.5, "acc/b/stderr": 0.1, "same/c": 1.0}
SMALLER = {"ppl/a": math.e**2.1, "ppl/a/stderr": 1.0, "acc/b": 0.75, "acc/b/stderr": 0.1, "same/c": 0.5}
TERMS: dict[str, dict[str, Any]] = {
    "dense": {
        "a": {"losses": [1.0, 3.0], "tokens": [7, 7]},
        "b": {"loglikelihoods": [[0, 1]] * 4, "right": [0, 0, 1, 1]},
    },
    "pruned": {"a": {"losses": [1.2, 3.0], "tokens": [7, 7]}, "b": {"hits": [0, 1, 1, 1]}},
}


def result(folder: Path, **smaller: float) -> Any:
    """A result with two metrics, whose measurements keep their terms in a folder."""
    records: dict[str, dict[str, str]] = {"ppl/a": {}, "acc/b": {}}
    for which, metrics in TERMS.items():
        for name, terms in metrics.items():
            (folder / f"{name}-{which}.terms.json").write_text(json.dumps(terms))
            records[{"a": "ppl/a", "b": "acc/b"}[name]][which] = f"{name}-{which}.json"
    return {"evaluation": {"dense": DENSE, "pruned": SMALLER | smaller, "records": records}}


def test_the_error_is_that_of_the_paired_difference(tmp_path: Path) -> None:
    found = changes(result(tmp_path), tmp_path)
    assert list(found) == ["ppl/a", "acc/b"], "other metrics are no qualities"
    percent, points = found.values()
    assert percent.amount == pytest.approx(100 * (math.exp(0.1) - 1))
    assert percent.error == pytest.approx(100 * math.exp(0.1) * 0.1)  # the differences are 0.2 and 0
    assert (points.amount, points.word) == (pytest.approx(25), "within error")
    assert points.error == pytest.approx(25)  # one of four items
    assert percent.word == "within error"


def test_without_terms_the_errors_of_both_values_count(tmp_path: Path) -> None:
    percent, points = changes(result(tmp_path), None).values()
    both = math.hypot(1 / math.e**2, 1 / math.e**2.1)
    assert percent.error == pytest.approx(100 * math.exp(0.1) * both)
    assert points.error == pytest.approx(100 * math.hypot(0.1, 0.1))


def test_without_any_error_no_direction_is_certain() -> None:
    evaluation = {"dense": {"ppl/a": 9.0}, "pruned": {"ppl/a": 11.0}}
    change = changes(cast(Any, {"evaluation": evaluation}), None)["ppl/a"]
    assert (change.error, change.word) == (None, "error unknown")


@pytest.mark.parametrize(
    ("ppl", "acc", "words"),
    [
        (math.e**3, 0.0, ("worse", "worse")),
        (math.e, 1.0, ("better", "better")),
        (math.e**2, 0.5, ("within error", "within error")),
        (math.e**9, 0.5, ("1,097 times as high (worse)", "within error")),
    ],
)
def test_the_word_says_in_which_direction_it_is_certain(
    ppl: float, acc: float, words: tuple[str, str], tmp_path: Path
) -> None:
    certain = {"ppl/a/stderr": 1e-3, "acc/b/stderr": 1e-3}
    found = result(tmp_path, **{"ppl/a": ppl, "acc/b": acc}, **certain)
    found["evaluation"]["dense"] = DENSE | certain
    for change, word in zip(changes(found, None).values(), words, strict=True):
        assert word in str(change)

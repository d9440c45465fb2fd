"""Names of metrics, and under which name each is measured."""

from __future__ import annotations

import pytest

from pruning.core.records import filtered_of, label_of, main_of


@pytest.mark.parametrize(
    ("name", "main", "label"),
    [
        ("acc/arc", "acc/arc", "accuracy"),
        ("acc_plain/arc", "acc/arc", "plain accuracy"),
        ("exact/gsm8k", "exact/gsm8k", "exact answers"),
        ("exact_flexible-extract/gsm8k", "exact/gsm8k", "exact answers, flexible-extract"),
        ("self_ppl/continuations", "self_ppl/continuations", "perplexity of the dense model's text"),
        ("same/continuations", "self_ppl/continuations", "tokens before the first difference"),
        ("repeated/continuations", "self_ppl/continuations", "repeated tokens"),
        ("other/x", "other/x", "other"),
    ],
)
def test_names_of_one_measurement(name: str, main: str, label: str) -> None:
    assert main_of(name) == main
    assert label_of(name) == label


def test_a_filter_is_part_of_the_kind() -> None:
    assert filtered_of("exact/gsm8k", "flexible-extract") == "exact_flexible-extract/gsm8k"

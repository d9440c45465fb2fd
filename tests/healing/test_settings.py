"""Settings of healing: bad values are named; the key depends on what the weights depend on. And the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.healing.heal_settings import Distill, Full, Lora, budgets
from tests.healing.worlds import lora


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Full(tokens=0), r"heal\.tokens=0 .* 1 or more"),
        (Full(length=7), r"heal\.length=7 .* 8 or more"),
        (Full(lr=0.0), r"heal\.lr=0 "),
        (Full(decay=1.5), r"heal\.decay=1\.5 .* 0 to 1"),
        (Full(source="novel"), "'novel'"),
        (Full(source="hub"), r"heal\.path"),
        (Full(source="file"), r"heal\.path=FILE"),
        (Full(source="file", path="/nowhere"), r"heal\.path=/nowhere"),
        (Full(path="notes.txt"), r"heal\.path=notes\.txt .* heal\.source=pydoc"),
        (Full(schedule="step"), r"heal\.schedule 'step'"),
        (Lora(rank=0), r"heal\.rank=0 "),
        (Distill(weights="some"), r"heal\.weights 'some'"),
        (Distill(kl=-1.0), r"heal\.kl=-1"),
        (Distill(kl=0.0, ce=0.0), r"heal\.kl=0, heal\.ce=0"),
        (Distill(temperature=0.0), r"heal\.temperature=0 "),
        (lora(candidates=0), r"heal\.candidates=0 "),
        (lora(candidates=2, round_tokens=32), r"heal\.round_tokens=32 .* 64 tokens"),
        (lora(candidates=8, round_tokens=320), r"heal\.candidates=8 .* 3 rounds.* 1280 tokens"),
    ],
)
def test_bad_values_are_named(settings: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        settings.check()


def test_a_key_is_that_of_settings_and_text(tmp_path: Path) -> None:
    plain = Full()
    assert plain.key("text") != Full(lr=1e-3).key("text") != Full(tokens=100).key("text")
    assert plain.key("text") != plain.key("other")
    same = Full(
        micro_tokens=1, checkpoint_every=3, gradient_checkpointing=True, candidates=8, round_tokens=64
    )
    assert plain.key("text") == same.key("text")
    assert plain.line("text") == same.line("text") == Full(tokens=100, decay=0.5).line("text")
    assert plain.line("text") != Full(lr=1e-3).line("text")
    assert not {"candidates", "round_tokens"} & {*same.recorded()}
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for file in (first, second):
        file.write_text("the same words")
    keys = {Full(source="file", path=str(file)).key("text") for file in (first, second)}
    assert len(keys) == 1, "a file is known by its contents"


@pytest.mark.parametrize(
    ("settings", "key", "line"),
    [
        (Full(), "9c91d240", "ac3207fa"),
        (Lora(lr=1e-3), "315a1801", "194fcf7c"),
        (Distill(), "513ce2f8", "6510e3f4"),
    ],
)
def test_finished_healings_are_found_by_names_that_stay(settings: Any, key: str, line: str) -> None:
    assert (settings.key("text"), settings.line("text")) == (key, line)


def test_the_beginning_of_a_rate_does_not_depend_on_the_budget() -> None:
    small, large = (Full(tokens=2048 * steps, warmup=4) for steps in (20, 100))
    assert (small.stable, large.stable) == (16, 80)
    assert [small.factor(i) for i in range(16)] == [large.factor(i) for i in range(16)]
    assert [small.factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [small.factor(i) for i in range(16, 20)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert Full(tokens=1).factor(0) > 0
    assert Full(tokens=20480, warmup=0, decay=0.0).stable == 10


def test_a_cosine_falls_over_the_whole_budget() -> None:
    cosine = Full(tokens=20480, schedule="cosine", warmup=0)
    assert cosine.stable == 0
    assert [round(cosine.factor(i), 3) for i in (0, 5, 9)] == [1.0, 0.5, 0.024]


@pytest.mark.parametrize(("count", "expected"), [(1, []), (2, [5]), (5, [5, 10, 20]), (8, [5, 10, 20])])
def test_each_round_doubles_the_tokens(count: int, expected: list[int]) -> None:
    assert budgets(count, 5) == expected

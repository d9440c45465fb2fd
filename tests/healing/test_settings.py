"""Settings of healing: bad values are named; the key depends on what the weights depend on. And the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.healing.heal_settings import Distill, Full, Lora
from pruning.healing.training import schedule_of


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Full(tokens=0), r"heal\.tokens=0 is too small: choose 1 or more"),
        (Full(lr=0.0), r"heal\.lr=0 is out of range"),
        (Full(decay=1.5), r"heal\.decay=1\.5 is out of range: choose 0 to 1"),
        (Full(source="novel"), "unknown source of text 'novel'"),
        (Full(source="hub"), r"heal\.path is not set: give the name of a data set"),
        (Full(source="file"), r"heal\.path is not set: give heal\.path=FILE"),
        (
            Full(path="notes.txt"),
            r"heal\.path=notes\.txt is not read with heal\.source=pydoc",
        ),
        (Full(schedule="step"), r"unknown heal\.schedule 'step'"),
        (Lora(rank=0), r"heal\.rank=0 is too small"),
        (Distill(weights="some"), r"unknown heal\.weights 'some'"),
        (Distill(kl=-1.0), "choose 0 or more"),
        (Distill(kl=0.0, ce=0.0), "at least one above 0"),
        (Distill(temperature=0.0), r"heal\.temperature=0 is out of range"),
    ],
)
def test_bad_values_are_named(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        settings.check()


def test_peft_is_needed_for_adapters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.healing.heal_settings.find_spec", lambda _: None)
    for settings in (Lora(), Distill()):
        with pytest.raises(InputError, match="pip install peft"):
            settings.check()
    for other in (Full(), Distill(weights="full")):
        other.check()


def test_a_key_is_that_of_settings_and_text(tmp_path: Path) -> None:
    plain = Full()
    assert plain.key("text") != Full(lr=1e-3).key("text") != Full(tokens=100).key("text")
    assert plain.key("text") != plain.key("other")
    assert plain.key("text") == Full(micro_tokens=1, checkpoint_every=3, gradient_checkpointing=True).key(
        "text"
    )
    assert plain.line("text") == Full(tokens=100, decay=0.5).line("text") != Full(lr=1e-3).line("text")
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for file in (first, second):
        file.write_text("the same words")
    keys = {Full(source="file", path=str(file)).key("text") for file in (first, second)}
    assert len(keys) == 1, "a file is known by its contents"


def test_the_beginning_of_a_rate_does_not_depend_on_the_budget() -> None:
    small, large = (schedule_of("wsd", steps, 4, 0.2) for steps in (20, 100))
    assert (small.stable, large.stable) == (16, 80)
    assert [small.factor(i) for i in range(16)] == [large.factor(i) for i in range(16)]
    assert [small.factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [small.factor(i) for i in range(16, 20)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert schedule_of("wsd", 1, 5, 0.2).factor(0) > 0
    assert schedule_of("wsd", 10, 0, 0.0).stable == 10


def test_a_cosine_falls_over_the_whole_budget() -> None:
    cosine = schedule_of("cosine", 10, 0, 0.2)
    assert cosine.stable == 0
    assert [round(cosine.factor(i), 3) for i in (0, 5, 9)] == [1.0, 0.5, 0.024]

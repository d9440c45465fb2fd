"""Settings and text of a healing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import pydoc
from pruning.calibration.text import drawn_windows, start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.evaluation.heldout import Heldout
from pruning.healing import training_text
from pruning.healing.heal_settings import Distill, Full, Lora
from pruning.healing.training_text import HealingText, check_text, draw_text, packed, text_apart
from tests.healing.worlds import full, lora


def few_windows(ids: Sequence[int], calibration: Sequence[int]) -> HealingText:
    rows = [Row(tuple(calibration[i : i + 16]), (1, 16)) for i in range(0, len(calibration), 16)]
    return packed(ids, (), full(), "numbers", samples(*rows) if rows else None)


REPEATED = [*range(320), *[*range(900, 916)] * 20]
REFUSED: list[tuple[Callable[[], object], str]] = [
    (Full(length=7).check, r"heal\.length=7 .* 8 "),
    (Full(lr=0.0).check, r"heal\.lr=0 "),
    (Full(decay=1.5).check, r"heal\.decay=1\.5 .* 0 .* 1"),
    (Full(source="novel").check, "'novel'"),
    (Full(source="hub").check, r"heal\.path"),
    (Full(source="file").check, r"heal\.path=FILE"),
    (Full(source="file", path="/nowhere").check, r"heal\.path=/nowhere"),
    (Full(path="notes.txt").check, r"heal\.path=notes\.txt .* heal\.source=pydoc"),
    (Lora(rank=0).check, r"heal\.rank=0 "),
    (Distill(weights="some").check, r"heal\.weights 'some'"),
    (Distill(kl=-1.0).check, r"heal\.kl=-1"),
    (Distill(kl=0.0, ce=0.0).check, r"heal\.kl=0 .*heal\.ce=0"),
    (lora(candidates=2, round_tokens=32).check, r"heal\.round_tokens=32 .* 64 "),
    (lora(candidates=8, round_tokens=320).check, r"heal\.candidates=8 .* 3 .* 1280 "),
    (partial(few_windows, range(80), ()), r"numbers .*5 .* 16 .* 0 .* 0 .*heal\.heldout"),
    (partial(few_windows, REPEATED, range(320)), r"numbers .*40 .* 16 .* 20 .* 16 .*heal\.heldout"),
]


@pytest.mark.parametrize(("attempt", "named"), REFUSED)
def test_bad_values_and_too_few_windows_are_refused(attempt: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        attempt()


def test_a_key_is_that_of_settings_and_text(tmp_path: Path) -> None:
    plain = Full()
    assert plain.key("text") != Full(lr=1e-3).key("text") != Full(tokens=100).key("text")
    assert plain.key("text") != plain.key("other")
    same = Full(micro_tokens=1, gradient_checkpointing=True, candidates=8, round_tokens=64)
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
        (Full(), "91061036", "007362f2"),
        (Lora(lr=1e-3), "e5331174", "af3026ee"),
        (Distill(), "2fb67130", "b5a3ca62"),
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


def ids_of(rows: Any) -> list[tuple[int, ...]]:
    return [row.input_ids for row in rows]


def samples(*rows: Row) -> Samples:
    return Samples("text", "made up", rows, 0)


def row(start: int, length: int = 64) -> Row:
    return Row(tuple(range(start, start + length)), (1, length))


def test_windows_are_the_text_in_another_order() -> None:
    settings = full(heldout=4)
    text = packed(range(200, 200 + 16 * 30 + 5), (1,), settings, "numbers")
    rows = ids_of((*text.heldout, *text.windows))
    assert all(one[0] == 1 and len(one) == 16 for one in rows)
    assert len(text.heldout) == 4
    payloads = [tuple(range(s, s + 15)) for s in range(200, 200 + 15 * len(rows), 15)]
    assert sorted(one[1:] for one in rows) == payloads
    assert rows != sorted(rows)
    assert ids_of(packed(range(200, 685), (1,), full(seed=1), "numbers").windows) != ids_of(text.windows)


def test_windows_of_the_calibration_and_of_the_held_out_text_are_left_out() -> None:
    length = 64
    ids = [*range(1000, 1000 + length * 20)]
    again = ids[: length * 2]  # the same text once more, but cut at other places
    settings, calibration = Full(length=length, batch_tokens=length, heldout=3), samples(row(1100))
    text = packed([*ids, *again], (), settings, "numbers", calibration)
    assert not samples(*text.heldout, *text.windows).shared(calibration)
    assert len(text.windows) + len(text.heldout) < 22
    assert samples(*text.heldout).shared(samples(*text.windows)) == 0


def test_embedded_text_shares_nothing_with_held_out_parts_or_the_calibration(tokenizer: Any) -> None:
    settings = Full(length=64, batch_tokens=256)
    calibration = drawn_windows(pydoc("calibration"), tokenizer, "pydoc", (16, 128, 0))
    text = draw_text(settings, tokenizer, calibration)
    check_text(text, Heldout(samples=8, length=64, items=5).data(tokenizer))
    assert not samples(*text.heldout, *text.windows).shared(calibration)
    assert len(text.windows) > 500
    assert draw_text(settings, tokenizer, calibration).sha256 == text.sha256


def test_text_of_an_evaluation_is_refused_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_text, "PIECE", 3)
    text = packed(range(5000), (), Full(length=50, batch_tokens=50, heldout=2), "numbers")
    for shared in (text.windows[-1], text.heldout[0]):
        with pytest.raises(InputError, match=r"ppl/prose .*heal\.source"):
            check_text(text, {"ppl/prose": samples(shared)})
    check_text(text, {"ppl/prose": samples(row(9000, 50))})


def test_the_windows_of_a_step_follow_from_its_number() -> None:
    rows = tuple(Row((i, i, i), (1, 3)) for i in range(7))
    text = HealingText("numbers", rows, rows[:1], 3)
    drawn = [one.input_ids[0] for step in range(7) for one in text.batch(step, 3)]
    epochs = [drawn[start : start + 7] for start in (0, 7, 14)]
    assert epochs[0] == list(range(7))
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[1] != epochs[0] != epochs[2]


def test_a_larger_budget_of_a_stream_begins_with_the_same_windows(tokenizer: Any) -> None:
    ids, start = token_ids(pydoc("calibration"), tokenizer, None), start_tokens(tokenizer)
    small, large = (Full(tokens=n, length=64, batch_tokens=256, stream=True) for n in (2048, 8192))
    first, second = (
        packed(ids[: 2 * (s.tokens + s.heldout * s.length)], start, s, "hub") for s in (small, large)
    )
    assert ids_of(second.windows)[: len(first.windows)] == ids_of(first.windows)
    assert len(first.windows) == 32
    assert small.line(first.beginning) == large.line(second.beginning)
    assert first.sha256 != second.sha256


def test_windows_that_repeat_a_passage_of_the_evaluation_are_left_out() -> None:
    """Each number is its own token, so a window shares a run with the data if and only if their ranges meet."""
    text = HealingText("t", tuple(row(64 * i) for i in range(8)), (row(1000), row(2000)), 0)
    windows = samples(row(100), row(2050))
    items = Samples("items", "i", (Row((1, 2), (1, 2), 0, 0, True),), 0)
    kept = text_apart(text, {"ppl/heldout": windows, "acc/heldout": items}, 1)
    ranges = [{*one.input_ids} for one in windows.rows]
    shared = [any(len({*one.input_ids} & other) >= 32 for other in ranges) for one in text.windows]
    assert any(shared)
    assert kept.windows == tuple(one for one, meets in zip(text.windows, shared, strict=True) if not meets)
    assert kept.left_out == tuple(2 + number for number, meets in enumerate(shared) if meets)
    assert kept.heldout == text.heldout, "14 tokens in common are no passage"
    assert samples(*kept.heldout, *kept.windows).shared(windows) == 0
    assert text_apart(text, {"acc/heldout": items}, 1) == text.without(())
    with pytest.raises(InputError, match=r" 0 .* 8 .*heal\.heldout"):
        text_apart(text, {"ppl/heldout": samples(row(1000), row(2000))}, 1)

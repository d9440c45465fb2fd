"""The text of a healing: windows apart from everything else, in an order that a step determines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import WindowDraw, start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.evaluation.heldout import Heldout
from pruning.healing.heal_settings import Full
from pruning.healing.training_text import HealingText, check_text, draw_text, packed, warn_about_epochs
from tests.healing.worlds import full


def ids_of(rows: Any) -> list[tuple[int, ...]]:
    return [row.input_ids for row in rows]


def test_windows_are_the_text_in_another_order() -> None:
    settings = full(heldout=4)
    text = packed(range(200, 200 + 16 * 30 + 5), (1,), settings, "numbers")
    rows = ids_of((*text.heldout, *text.windows))
    assert all(row[0] == 1 and len(row) == 16 for row in rows)
    assert len(text.heldout) == 4
    assert sorted(row[1:] for row in rows) == [
        tuple(range(s, s + 15)) for s in range(200, 200 + 15 * len(rows), 15)
    ]
    assert rows != sorted(rows)
    assert ids_of(packed(range(200, 685), (1,), full(seed=1), "numbers").windows) != ids_of(text.windows)


def test_windows_of_the_calibration_and_of_the_held_out_text_are_left_out() -> None:
    length = 64
    ids = [*range(1000, 1000 + length * 20)]
    again = ids[: length * 2]  # the same text once more, but cut at other places
    settings = Full(length=length, batch_tokens=length, heldout=3)
    calibration = Samples("text", "", (Row(tuple(ids[100:164]), (1, length)),), 0)
    text = packed([*ids, *again], (), settings, "numbers", calibration)
    assert not any(piece.shared(calibration) for piece in text.pieces())
    assert len(text.windows) + len(text.heldout) < 22
    heldout = Samples("text", "", text.heldout, 0)
    assert heldout.shared(Samples("text", "", text.windows, 0)) == 0


def test_embedded_text_shares_nothing_with_held_out_parts_or_the_calibration(tokenizer: Any) -> None:
    settings = Full(length=64, batch_tokens=256)
    samples = WindowDraw(16, 128, 0).windows(pydoc_text(), tokenizer, "pydoc")
    text = draw_text(settings, tokenizer, samples)
    check_text(text, Heldout(samples=8, length=64, items=5).data(tokenizer))
    assert not any(piece.shared(samples) for piece in text.pieces())
    assert len(text.windows) > 500
    assert draw_text(settings, tokenizer, samples).sha256 == text.sha256


def pydoc_text() -> Any:
    from pruning.calibration.sources import pydoc

    return pydoc("calibration")


def test_text_of_an_evaluation_is_refused_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.healing.training_text.PIECE", 3)
    text = packed(range(5000), (), Full(length=50, batch_tokens=50, heldout=2), "numbers")
    last = text.windows[-1]
    for data in (last, text.heldout[0]):
        with pytest.raises(InputError, match=r"the data of ppl/prose .* must not be trained on"):
            check_text(text, {"ppl/prose": Samples("text", "prose", (data,), 0)})
    check_text(text, {"ppl/prose": Samples("text", "prose", (Row(tuple(range(9000, 9050)), (1, 50)),), 0)})


def test_the_windows_of_a_step_follow_from_its_number() -> None:
    rows = tuple(Row((i, i, i), (1, 3)) for i in range(7))
    text = HealingText("numbers", rows, rows[:1], 3)
    drawn = [row.input_ids[0] for step in range(7) for row in text.batch(step, 3)]
    epochs = [drawn[start : start + 7] for start in (0, 7, 14)]
    assert epochs[0] == list(range(7))
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[1] != epochs[0] != epochs[2]
    assert [row.input_ids[0] for row in text.batch(4, 3)] == drawn[12:15]


def test_a_text_that_is_read_again_is_named_with_the_number_of_epochs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = full(tokens=1600)
    short = packed(range(16 * 54), (), settings, "numbers")
    assert warn_about_epochs(short, settings) == 2.0
    assert "800 tokens to train on and the budget is 1600" in caplog.text
    caplog.clear()
    assert warn_about_epochs(short, full(tokens=800)) < 1
    assert caplog.text == ""


def test_a_short_text_is_refused() -> None:
    with pytest.raises(InputError, match="numbers is too short to heal on: it gives 5 windows of 16 tokens"):
        packed(range(80), (), full(), "numbers")


@pytest.mark.parametrize(
    ("ids", "calibration", "cause"),
    [
        ([*range(16)] * 40, (), "36 repeat text of the held-out windows"),
        (range(640), range(640), "40 share text with the calibration samples"),
        ([*range(320), *[*range(900, 916)] * 20], range(320), "20 share text with the calibration"),
    ],
)
def test_a_long_text_that_repeats_itself_or_the_calibration_is_not_called_short(
    ids: Sequence[int], calibration: Sequence[int], cause: str
) -> None:
    rows = tuple(Row(tuple(calibration[i : i + 16]), (1, 16)) for i in range(0, len(calibration), 16))
    known = Samples("text", "known", rows, 0) if rows else None
    with pytest.raises(InputError, match=cause) as error:
        packed(ids, (), full(), "numbers", known)
    assert "it gives 40 windows of 16 tokens" in str(error.value)
    assert "too short" not in str(error.value)


def test_a_larger_budget_of_a_stream_begins_with_the_same_windows(tokenizer: Any) -> None:
    ids = token_ids(pydoc_text(), tokenizer, None)
    small, large = (Full(tokens=n, length=64, batch_tokens=256, stream=True) for n in (2048, 8192))
    parts = [ids[: 2 * (s.tokens + s.heldout * s.length)] for s in (small, large)]
    first, second = (
        packed(part, start_tokens(tokenizer), s, "hub") for part, s in zip(parts, (small, large), strict=True)
    )
    assert ids_of(second.windows)[: len(first.windows)] == ids_of(first.windows)
    assert len(first.windows) == 32
    assert small.line(first.beginning) == large.line(second.beginning)
    assert first.sha256 != second.sha256


def test_windows_that_repeat_a_passage_of_the_evaluation_are_left_out() -> None:
    """Each number is its own token, so a window shares a run with the data if and only if their ranges meet."""
    from pruning.healing.training_text import text_apart

    def row(start: int) -> Row:
        return Row(tuple(range(start, start + 64)), (1, 64))

    text = HealingText("t", tuple(row(64 * i) for i in range(8)), (row(1000), row(2000)), 0)
    windows = Samples("text", "e", (row(100), row(2050)), 0)
    items = Samples("items", "i", (Row((1, 2), (1, 2), 0, 0, True),), 0)
    kept = text_apart(text, {"ppl/heldout": windows, "acc/heldout": items}, 1)
    ranges = [{*one.input_ids} for one in windows.rows]
    shared = [any(len({*one.input_ids} & other) >= 32 for other in ranges) for one in text.windows]
    assert any(shared)
    assert kept.windows == tuple(one for one, meets in zip(text.windows, shared, strict=True) if not meets)
    assert kept.left_out == tuple(2 + number for number, meets in enumerate(shared) if meets)
    assert kept.heldout == text.heldout, "14 tokens in common are no passage"
    assert text_apart(text, {"acc/heldout": items}, 1) == text.without(())
    every = Samples("text", "e", (row(1000), row(2000)), 0)
    with pytest.raises(InputError, match="0 held-out windows and 8 others are left"):
        text_apart(text, {"ppl/heldout": every}, 1)
    assert all(piece.shared(windows) == 0 for piece in kept.pieces())

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.calibration.samples import Row
from pruning.engine.batching import make_batches, packed, single
from tests.helpers.rows import item_rows, text_rows


def test_choices_follow_their_common_prompt() -> None:
    rows = (Row((7, 8, 9, 1, 2), (3, 5), 0, 0, True), Row((7, 8, 9, 3, 4, 5), (3, 6), 0, 1, False))
    (line,) = packed(rows)
    assert line.tokens == (7, 8, 9, 1, 2, 3, 4, 5)
    assert line.positions == (0, 1, 2, 3, 4, 3, 4, 5)
    assert line.segments == (0, 0, 0, 1, 1, 2, 2, 2)
    assert line.targets == ((2, 1, 0), (3, 2, 0), (2, 3, 1), (5, 4, 1), (6, 5, 1))


def test_choices_that_begin_alike_keep_their_scored_tokens_apart() -> None:
    rows = (Row((7, 1, 2), (1, 3), 0, 0, True), Row((7, 1, 3), (1, 3), 0, 1, False))
    (line,) = packed(rows)
    assert line.tokens == (7, 1, 2, 1, 3), "only the unscored prompt is shared"


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 100), st.booleans(), st.booleans())
def test_batches_hold_every_target_once_and_stay_within_their_size(
    count: int, batch_tokens: int, items: bool, pack: bool
) -> None:
    rows = item_rows(count) if items else text_rows(count)
    batches = make_batches((packed if pack else single)(rows), batch_tokens)
    pairs = (zip(b.rows.tolist(), b.targets.tolist(), strict=True) for b in batches)
    scored = sorted(pair for batch in pairs for pair in batch)
    assert scored == sorted((i, row.input_ids[t]) for i, row in enumerate(rows) for t in range(*row.span))
    for batch in batches:
        assert batch.ids.numel() <= batch_tokens or len(batch.ids) == 1
        flat = batch.ids.flatten()
        for index, row in zip(batch.indices.tolist(), batch.rows.tolist(), strict=True):
            assert int(flat[index]) in rows[row].input_ids, (
                "a target is predicted from a token of its own row"
            )


def test_batches_depend_on_the_lines_alone() -> None:
    lines = single(text_rows(12))
    ways = [make_batches(order, 40) for order in (lines, lines[::-1])]
    assert [b.ids.tolist() for b in ways[0]] == [b.ids.tolist() for b in ways[1]]

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.calibration.samples import Row
from pruning.forward import Forward, make_batches, span_loglikelihood
from pruning.mask import Mask
from pruning.models import LanguageModel, ModelInfo
from tests.architectures import ARCHITECTURES, N_BLOCKS, build, without


def language_model(module: Any) -> LanguageModel:
    return LanguageModel(module, ModelInfo("tiny", "test", "0", N_BLOCKS, "float32", 0))


def random_rows(count: int, longest: int = 14) -> tuple[Row, ...]:
    rng = random.Random(count)
    rows = []
    for _ in range(count):
        length = rng.randint(3, longest)
        start = rng.randint(1, length - 1)
        rows.append(
            Row(tuple(rng.randint(3, 96) for _ in range(length)), (start, rng.randint(start + 1, length)))
        )
    return tuple(rows)


def plain(module: Any, row: Row) -> float:
    """The log-likelihood of one unpadded row, token by token, in float64."""
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([row.input_ids])).logits[0].double()
    total = torch.log_softmax(logits, -1)
    return sum(float(total[t - 1, row.input_ids[t]]) for t in range(*row.span))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_and_batching_change_no_loglikelihood(name: str) -> None:
    module, rows = build(name), random_rows(9)
    masks = [Mask(N_BLOCKS), Mask(N_BLOCKS, (0, 3)), Mask(N_BLOCKS, (1, 2, 5))]
    for mask, found, seconds in Forward(language_model(module), batch_tokens=40).loglikelihoods(rows, masks):
        smaller = without(module, mask.dropped)
        assert found == pytest.approx([plain(smaller, row) for row in rows], rel=1e-5, abs=1e-5)
        assert seconds > 0


def test_float64_agrees_to_the_last_digits() -> None:
    module, rows = build("llama").double(), random_rows(5)
    ((_, found, _),) = Forward(language_model(module)).loglikelihoods(rows, [Mask(N_BLOCKS, (2,))])
    smaller = without(module, (2,)).double()
    assert found == pytest.approx([plain(smaller, row) for row in rows], rel=1e-6)


def test_span_loglikelihood_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    ids = torch.tensor([0, 2, 1])
    expected = torch.log_softmax(logits, -1)
    assert span_loglikelihood(logits, ids, (1, 2)) == pytest.approx(float(expected[0, 2]))
    assert span_loglikelihood(logits, ids, (1, 3)) == pytest.approx(float(expected[0, 2] + expected[1, 1]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(14, 100))
def test_batches_hold_every_row_once_and_stay_within_their_size(count: int, batch_tokens: int) -> None:
    rows = random_rows(count)
    batches = make_batches(rows, batch_tokens)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(count))
    for batch in batches:
        assert batch.ids.numel() <= batch_tokens
        for line, index in enumerate(batch.indices):
            length = len(rows[index].input_ids)
            assert tuple(batch.ids[line, :length].tolist()) == rows[index].input_ids
            assert batch.attention is None or batch.attention[line].tolist() == [1] * length + [0] * (
                batch.ids.shape[1] - length
            )


def test_a_row_longer_than_the_batch_is_still_run() -> None:
    rows = (Row(tuple(range(3, 23)), (1, 20)),)
    assert [batch.indices for batch in make_batches(rows, 8)] == [(0,)]

"""Losses in float32 of a model in half precision: the same weights, another rounding."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch

from pruning.engine import dense_pass
from pruning.engine.dense_pass import in_float32
from pruning.engine.forward import Forward
from tests.helpers.architectures import build
from tests.helpers.objectives import MASKS
from tests.helpers.rows import language_model, text_rows

ROWS = text_rows(9)
SCALES = (1.7, 0.8, 1.2, 1.05, 2.5, 1.0)


def half(scales: tuple[float, ...] | None = None) -> Forward:
    return Forward(language_model(build("llama").bfloat16()), scales=scales)


@pytest.mark.parametrize("scales", [None, SCALES])
def test_the_copy_has_the_rounded_weights_and_computes_in_float32(scales: tuple[float, ...] | None) -> None:
    forward = half(scales)
    single = in_float32(forward)
    assert single is not None
    exact = copy.deepcopy(forward.model.module).double()
    plain = Forward(language_model(exact), scales=scales)
    near, far = ({m: t for m, t, _ in f.loglikelihoods(ROWS, MASKS)} for f in (single, plain))
    for mask in MASKS:
        np.testing.assert_allclose(near[mask], far[mask], rtol=1e-5)
    assert forward.model.module.dtype == torch.bfloat16
    assert single.cost is forward.cost


def test_a_model_in_full_precision_has_no_copy() -> None:
    assert in_float32(Forward(language_model(build("llama")))) is None


def test_without_memory_for_the_copy_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_pass, "free_memory", lambda _: 1000)
    assert in_float32(half()) is None


def test_a_copy_that_no_one_uses_is_freed_without_the_garbage_collector() -> None:
    single = in_float32(half())
    assert single is not None
    gc.disable()
    try:
        list(single.loglikelihoods(ROWS, MASKS))
        copied = weakref.ref(single.model.module)
        view = single.with_scales(None)
        del single
        # A view shares the memory budget of the passes that it comes from.
        list(view.loglikelihoods(ROWS, MASKS))
        assert copied() is not None
        del view
        assert copied() is None
    finally:
        gc.enable()

"""Decide whether the choices of an item may share one line of tokens, by running the model on a few items."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruning.distributed import collectives
from pruning.engine.batching import TokenLine, packed, single

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

# Relative and absolute tolerance of losses. For other dtypes, the tolerance is 0.05.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
# The items of the first TRIED rows are run twice, packed and unpacked, and the losses are compared.
TRIED = 8

# Computes log-likelihoods (rows,) under the dense model, from rows and their lines.
Likelihoods = Callable[[Sequence["Row"], Sequence[TokenLine]], np.ndarray[Any, Any]]


def lines(module: Any, rows: Sequence[Row], likelihoods: Likelihoods) -> list[TokenLine]:
    """Make lines from rows. Choices are packed if packing does not change this model's losses."""
    if all(row.item is None for row in rows) or not _supports_packing(module, packed(rows)):
        return single(rows)
    first = tuple(row for row in rows if row.item in {r.item for r in rows[:TRIED]})
    same = collectives.on_first(lambda: _agree(first, likelihoods, TOLERANCE.get(module.dtype, 0.05)))
    return packed(rows) if same else single(rows)


def _supports_packing(module: Any, candidates: Sequence[TokenLine]) -> bool:
    """Whether a model accepts positions and a mask of token pairs, and its attention window covers every line."""
    config = module.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or float("inf")
    longest = max(len(line.tokens) for line in candidates)
    accepts = "position_ids" in inspect.signature(module.forward).parameters
    return accepts and longest <= window and config._attn_implementation in ("eager", "sdpa")


def _agree(first: Sequence[Row], likelihoods: Likelihoods, tolerance: float) -> bool:
    """Whether rows of items have the same losses, within the tolerance, if they are packed and if they are not."""
    try:
        joined, apart = (likelihoods(first, make_lines(first)) for make_lines in (packed, single))
    except (RuntimeError, TypeError, ValueError):  # the model does not accept such a mask or positions
        return False
    return bool(np.allclose(joined, apart, rtol=tolerance, atol=tolerance))

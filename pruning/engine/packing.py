"""Whether the choices of an item may share one line of tokens: tried on each model, not assumed."""

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

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative; else 0.05
TRIED = 8  # rows, with all others of their items

# Log-likelihoods (rows,) of rows that stand in some lines, under the whole model.
Likelihoods = Callable[[Sequence["Row"], Sequence[TokenLine]], np.ndarray[Any, Any]]


def lines(module: Any, rows: Sequence[Row], likelihoods: Likelihoods) -> list[TokenLine]:
    """The lines of some rows: choices are packed where that gives this model's losses."""
    if all(row.item is None for row in rows) or not _takes(module, packed(rows)):
        return single(rows)
    first = tuple(row for row in rows if row.item in {r.item for r in rows[:TRIED]})
    same = collectives.on_first(lambda: _agree(first, likelihoods, TOLERANCE.get(module.dtype, 0.05)))
    return packed(rows) if same else single(rows)


def _takes(module: Any, candidates: Sequence[TokenLine]) -> bool:
    """Whether a model takes positions and a mask for each pair of tokens, and none of its windows is too short."""
    config = module.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or float("inf")
    longest = max(len(line.tokens) for line in candidates)
    takes = "position_ids" in inspect.signature(module.forward).parameters
    return takes and longest <= window and config._attn_implementation in ("eager", "sdpa")


def _agree(first: Sequence[Row], likelihoods: Likelihoods, tolerance: float) -> bool:
    """Whether rows of items have the same losses packed and apart."""
    try:
        together, apart = (likelihoods(first, way(first)) for way in (packed, single))
    except (RuntimeError, TypeError, ValueError):  # a model that takes no such mask or positions
        return False
    return bool(np.allclose(together, apart, rtol=tolerance, atol=tolerance))

"""Answer the request `Gates` with the gradients of the loss at the gates, or with secants if there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, LossError, first_line
from pruning.core.space import Space
from pruning.distributed import collectives
from pruning.objective import Gradient
from pruning.search.score_book import ScoreBook

NAME = "gates.json"


def answer(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """The gate gradients or secants, shape (samples, N), float64. Raises LossError if a gradient is NaN or infinite.

    Gradients are kept in a file beside the journal, so that a resumed search gets the same gradients.
    """
    gradient = book.losses.whole.gates
    if gradient is None:
        return _secant(space, book)
    if book.journal.path is None:
        return _finite(gradient, space.unit)
    path = book.journal.path.with_name(NAME)
    shape = book.samples, space.n_units
    known: np.ndarray[Any, Any] | None = collectives.on_first(
        lambda: _read(path, shape) if path.exists() else None
    )
    if known is None:
        known = _finite(gradient, space.unit)
        if collectives.is_first():
            atomic_files.write_json(path, known.tolist())
    return known


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The gradients in a file. Raises DamagedError unless they are finite numbers of this shape."""
    try:
        known = np.array(atomic_files.read_json(path), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)}): move it away and run again.") from error
    if known.shape != shape or not np.isfinite(known).all():
        raise DamagedError(
            f"{path} is damaged (it holds {known.shape} values, and {shape} finite ones are needed): move it away "
            "and run again."
        )
    return known


def _finite(gradient: Gradient, unit: str) -> np.ndarray[Any, Any]:
    values = gradient(unit)
    if not np.isfinite(values).all():
        raise LossError("the gradient at the gates is NaN or infinite: try model.dtype=float32.")
    return values


def _secant(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """For each sample and block, the dense model's term minus the term without the block. Protected blocks get 0."""
    masks = [space.drop(i) for i in space.free()]
    book.asked.update(dict.fromkeys(masks))
    book.count += len(masks)
    dense, *singles = book.scores([space.dense, *masks])
    rises = np.zeros((book.samples, space.n_units))
    for mask, score in zip(masks, singles, strict=True):
        rises[:, mask.dropped[0]] = np.subtract(dense.samples, score.samples)
    return rises

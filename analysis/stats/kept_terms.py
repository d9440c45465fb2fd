"""What a measurement keeps beside its value: the loss of each window, or the answer to each item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pruning.core.atomic_files import read_json
from pruning.core.errors import DamagedError
from pruning.core.result import TERMS, DoneResult


def kept_terms(
    results: Path, result: DoneResult, metric: str, which: str = "pruned"
) -> Mapping[str, Any] | None:
    """The terms of a cell's mask, or of the dense model; None if they were not kept, or are damaged."""
    records = cast(Mapping[str, Any], result["evaluation"]).get("records", {})
    if (path := records.get(metric, {}).get(which)) is None:
        return None
    return terms_beside(results / path)


def terms_beside(measured: Path) -> Mapping[str, Any] | None:
    """The terms that were kept beside the file of a measurement; None if there are none, or if it is damaged."""
    kept = measured.with_name(f"{measured.stem}.{TERMS}")
    if not kept.exists():
        return None
    try:
        return cast(Mapping[str, Any], read_json(kept))
    except DamagedError:  # the command names the file at its end (`data.side_files`)
        return None


def hits(terms: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """How right each item was answered (items,), from 0 to 1; None if the terms are not those of items.

    If n choices including the right one have the highest log-likelihood, it is 1 / n.
    """
    if "hits" in terms:
        return np.array(terms["hits"], float)
    if "loglikelihoods" not in terms:
        return None
    each = zip(terms["loglikelihoods"], terms["right"], strict=True)
    return np.array(
        [(scores[right] == max(scores)) / scores.count(max(scores)) for scores, right in each], float
    )

"""What `result.json` says about the maps that stand in for removed units."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict


class RepairRun(TypedDict):
    """A run of removed units, and the map that stands in for it."""

    removed: Annotated[list[str], "The removed sub-layers, in the notation of `mask.dropped`."]
    folded: Annotated[
        str | None, "The sub-layer into whose weights the map is folded; null if nothing comes before."
    ]
    form: NotRequired[Annotated[str, "`linear` for a matrix, `diagonal` for one factor per dimension."]]
    reason: NotRequired[Annotated[str, "Why a diagonal map was folded although a linear one was asked for."]]
    ridge: NotRequired[Annotated[float, "The ridge that was best on the samples that were held out."]]
    error_before: NotRequired[
        Annotated[
            float, "Squared error without a map on the held-out samples, as a share of what the map predicts."
        ]
    ]
    error_after: NotRequired[Annotated[float, "The same with a map that was fitted on the other samples."]]


class RepairRecord(TypedDict):
    """How removed runs were repaired; only with `compensation=linear` and `compensation=diagonal`."""

    form: Annotated[str, "What was asked for: `linear` or `diagonal`."]
    samples: Annotated[int, "Number of calibration samples."]
    tokens: Annotated[int, "Their tokens."]
    sequential: Annotated[bool, "Whether each map was measured on the model that is repaired before it."]
    runs: Annotated[list[RepairRun], "The removed runs, in order."]
    sha256: Annotated[str, "Digest of the maps in `repair.safetensors`."]

"""What `result.json` says about the maps that stand in for removed units."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict


class RepairRun(TypedDict):
    """A run of removed units, and the map that stands in for it."""

    removed: Annotated[list[str], "The removed sub-layers, in the notation of `mask.dropped`."]
    folded: Annotated[
        str | None,
        "The sub-layer into whose weights the map is folded; null if nothing comes before, or if no map helps.",
    ]
    form: NotRequired[Annotated[str, "`linear` for a matrix, `diagonal` for one factor per dimension."]]
    reason: NotRequired[
        Annotated[str, "Why no map was folded, or a diagonal one although a linear one was asked for."]
    ]
    ridge: NotRequired[Annotated[float, "The ridge of the map."]]
    error_before: NotRequired[
        Annotated[
            float, "Squared error without a map on the held-out samples, as a share of what the map predicts."
        ]
    ]
    error_after: NotRequired[Annotated[float, "The same with a map that was fitted on the other samples."]]
    loss_before: NotRequired[
        Annotated[
            dict[str, float],
            "The loss on the held-out samples of each source, in nats per token, with the maps of earlier runs.",
        ]
    ]
    loss_after: NotRequired[Annotated[dict[str, float], "The same with the last map that was tried."]]


class RepairRecord(TypedDict):
    """How removed runs were repaired; only with `compensation=linear` and `compensation=diagonal`."""

    form: Annotated[str, "What was asked for: `linear` or `diagonal`."]
    samples: Annotated[int, "Number of calibration samples."]
    tokens: Annotated[int, "Their tokens."]
    sequential: Annotated[bool, "Whether each map was measured on the model that is repaired before it."]
    runs: Annotated[list[RepairRun], "The removed runs, in order."]
    sha256: Annotated[str, "Digest of the maps in `repair.safetensors`."]


def is_repaired(record: RepairRecord) -> bool:
    """Whether any map helped, so that there are maps."""
    return any(run["folded"] is not None for run in record["runs"])

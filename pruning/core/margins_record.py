"""What `result.json` says about how sure the choice of the mask is."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict


class ComparisonRecord(TypedDict):
    """A mask compared with a better one (of lower loss), by paired differences over samples."""

    dropped: Annotated[list[int] | list[str], "What this mask removes."]
    difference: Annotated[float, "Mean difference of the two losses; positive if this mask is worse."]
    standard_error: Annotated[
        float | None, "Standard error of that mean; null for one sample, or one of a kind."
    ]
    samples: Annotated[int, "Number of samples that both masks were scored on."]
    p_corrected: NotRequired[
        Annotated[float, "One-sided p-value by Student's t, corrected by Holm for the number compared."]
    ]


class DecisionRecord(TypedDict):
    """One intermediate choice of the search, such as the choice of one round of greedy."""

    best: Annotated[int, "How many masks were kept."]
    of: Annotated[int, "How many masks there were to choose from."]
    chosen: Annotated[list[int] | list[str], "The last mask that was kept."]
    skipped: NotRequired[
        Annotated[int, "How many more masks there were, which a lazy search or a bound left unscored."]
    ]
    next: Annotated[ComparisonRecord, "The best mask that was not kept, compared with `chosen`."]


class NearTiesRecord(TypedDict):
    """Choices between masks whose losses differ by less than the rounding of the model's precision."""

    settled: Annotated[int, "How many choices were made by losses in float32."]
    changed: Annotated[int, "How many of them would have been different without float32."]
    open: Annotated[
        int, "How many choices float32 could not settle, so that another processor may choose otherwise."
    ]
    rounding: Annotated[float | None, "How far rounding moves a loss, as measured; null without float32."]


class MarginsRecord(TypedDict):
    """How sure the choice of the mask is."""

    compared: Annotated[int, "How many other masks of the same size the search scored."]
    runner_up: Annotated[ComparisonRecord | None, "The best of them; null if there is none."]
    tied: Annotated[int, "How many of them are not significantly worse at 0.05."]
    ties: Annotated[list[list[int] | list[str]], "What is removed by up to 100 of these."]
    decisions: NotRequired[Annotated[list[DecisionRecord], "The last 32 choices on the way."]]
    near_ties: NotRequired[Annotated[NearTiesRecord, "Only for a model in half precision."]]

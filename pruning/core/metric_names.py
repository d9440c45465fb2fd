"""Names of metrics: `ppl/<corpus>`, `acc/<task>`, and `<metric>/stderr` for a metric's standard error."""

from __future__ import annotations

from collections.abc import Iterable

LABELS = {"ppl": "perplexity", "acc": "accuracy", "acc_norm": "accuracy, normalised by length"}
_ERROR = "/stderr"


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}{_ERROR}"


def without_error(name: str) -> str:
    """The name of a metric, given that name or the name of its standard error."""
    return name.removesuffix(_ERROR)


def metrics_among(names: Iterable[str]) -> list[str]:
    """The names that are metrics and not standard errors, in order."""
    return [name for name in names if not name.endswith(_ERROR)]


def kind_of(metric: str) -> str:
    """`ppl`, `acc`, ...: the part before the slash."""
    return metric.partition("/")[0]


def label_of(metric: str) -> str:
    """The kind of a metric in words; an unknown kind is returned unchanged."""
    return LABELS.get(kind_of(metric), kind_of(metric))

"""Names of metrics: `ppl/<corpus>`, `acc/<task>`, and `<metric>/stderr` for a metric's standard error.

`acc/<task>` is lm-eval's `acc_norm` if the task has it, else its `acc`: this is what every earlier result holds under
that name. If a task has both, its `acc` is recorded as `acc_plain/<task>`.
"""

from __future__ import annotations

from collections.abc import Iterable

LABELS = {
    "ppl": "perplexity",
    "acc": "accuracy",
    "acc_plain": "plain accuracy",
    "acc_norm": "accuracy, normalised by length",
}
_ERROR = "/stderr"
_PLAIN = "acc_plain"


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}{_ERROR}"


def with_error(metric: str, value: float, error: float, samples: int) -> dict[str, float]:
    """A metric with its standard error. One sample has none: 0 would say that the value is exact."""
    return {metric: value, error_of(metric): error} if samples > 1 else {metric: value}


def plain_of(metric: str) -> str:
    """The name of the accuracy that is not normalised by length, given the name of an accuracy."""
    return f"{_PLAIN}/{metric.partition('/')[2]}"


def main_of(metric: str) -> str:
    """The name under which a metric is measured: `acc/<task>` if it is `acc_plain/<task>`, else its own name."""
    return f"acc/{metric.partition('/')[2]}" if kind_of(metric) == _PLAIN else metric


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

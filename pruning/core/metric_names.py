"""Names of metrics: `ppl/<corpus>`, `acc/<task>`, and `<metric>/stderr` for a metric's standard error.

`acc/<task>` is lm-eval's `acc_norm` if the task has it, else its `acc`: this is what every earlier result holds under
that name. If a task has both, its `acc` is recorded as `acc_plain/<task>`.

`exact/<task>` is the share of generated answers that are right. If a task of lm-eval extracts the answer in several
ways (filters), this is the first way, and `exact_<filter>/<task>` are the others. `self_ppl/continuations` is the
perplexity of the dense model's own continuations. It is not called `ppl/...`, since figures average those.
`same/continuations` and `repeated/continuations` are measured with it.
"""

from __future__ import annotations

from collections.abc import Iterable

LABELS = {
    "ppl": "perplexity",
    "acc": "accuracy",
    "acc_plain": "plain accuracy",
    "acc_norm": "accuracy, normalised by length",
    "exact": "exact answers",
    "self_ppl": "perplexity of the dense model's text",
    "same": "tokens before the first difference",
    "repeated": "repeated tokens",
}
_ERROR = "/stderr"
_PLAIN = "acc_plain"
_EXACT = "exact"
_MAIN = {
    _PLAIN: "acc",
    "same": "self_ppl",
    "repeated": "self_ppl",
}  # kinds that are measured with another kind


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}{_ERROR}"


def with_error(metric: str, value: float, error: float, samples: int) -> dict[str, float]:
    """A metric with its standard error. One sample has none: 0 would say that the value is exact."""
    return {metric: value, error_of(metric): error} if samples > 1 else {metric: value}


def plain_of(metric: str) -> str:
    """The name of the accuracy that is not normalised by length, given the name of an accuracy."""
    return f"{_PLAIN}/{metric.partition('/')[2]}"


def filtered_of(metric: str, name: str) -> str:
    """The name of the share of right answers under another filter, given that under the first filter."""
    return f"{_EXACT}_{name}/{metric.partition('/')[2]}"


def main_of(metric: str) -> str:
    """The name under which a metric is measured, such as `acc/<task>` for `acc_plain/<task>`; often its own name."""
    kind = kind_of(metric)
    main = _EXACT if kind.startswith(f"{_EXACT}_") else _MAIN.get(kind, kind)
    return metric if main == kind else f"{main}/{metric.partition('/')[2]}"


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
    kind = kind_of(metric)
    if kind.startswith(f"{_EXACT}_"):
        return f"{LABELS[_EXACT]}, {kind.removeprefix(f'{_EXACT}_')}"
    return LABELS.get(kind, kind)

"""A group of lm-eval's tasks, such as `mmlu`, measured as one metric: the share of right answers over all items."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pruning.core.hashing import text_sha256
from pruning.core.metric_names import error_of, metrics_among
from pruning.core.result import TERMS
from pruning.evaluation import Measured
from pruning.evaluation.generation_task import GenerationTask
from pruning.evaluation.tasks import EvalTask
from pruning.evaluation.text import terms_file

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """The tasks of a group, in lm-eval's order. All have right answers of the same kind."""

    name: str
    members: tuple[EvalTask | GenerationTask, ...]

    @property
    def source(self) -> str:
        """The name of the group, and how many tasks it has."""
        return f"{self.name}, {len(self.members)} tasks"

    @cached_property
    def sha256(self) -> str:
        """Digest of the members' digests."""
        return text_sha256(json.dumps([member.sha256 for member in self.members]))

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        return sum(member.shared(calibration) for member in self.members)

    def measure_each(self, name: str, measure: Callable[[str, Any], Measured]) -> Measured:
        """The metric over all items; `measure` returns the metric `name` of one member.

        Items count equally, as in lm-eval's groups that weigh by size, and the standard error is lm-eval's. Other
        metrics are reported if every member has them.
        """
        each = [measure(name, member) for member in self.members]
        sizes = [one.how["items"] for one in each]
        metrics: dict[str, float] = {}
        for metric in metrics_among(each[0].metrics):
            if not all(metric in one.metrics for one in each):
                continue
            metrics |= _pooled(metric, [one.metrics for one in each], sizes)
        labels = [member.task.task_name for member in self.members]
        how = {"group": self.name, "tasks": len(labels), "items": sum(sizes), "limit": self.members[0].limit}
        how["metric"] = " or ".join(dict.fromkeys(one.how["metric"] for one in each))
        how |= {key: each[0].how[key] for key in ("lm_eval", "fewshot") if key in each[0].how}
        return Measured(metrics, how, _files(labels, [one.files for one in each]))


def _pooled(metric: str, values: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """The mean over all items of a metric and its standard error, if every member has one."""
    from lm_eval.api.metrics import pooled_sample_stderr

    total = sum(value[metric] * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
    errors = [value[error_of(metric)] for value in values if error_of(metric) in value]
    if len(errors) < len(values):
        return {metric: total}
    return {metric: total, error_of(metric): float(pooled_sample_stderr(errors, list(sizes)))}


def _files(labels: Sequence[str], each: Sequence[Any]) -> dict[str, bytes]:
    """The files of all members together: lm-eval's results by task, all samples, and all terms."""
    results = {label: json.loads(files["lm_eval.json"]) for label, files in zip(labels, each, strict=True)}
    terms: dict[str, list[Any]] = {}
    for files in each:
        for key, values in json.loads(files[TERMS]).items():
            terms.setdefault(key, []).extend(values)
    samples = b"".join(files["samples.jsonl.gz"] for files in each)  # gzip files may follow each other
    return {
        "lm_eval.json": json.dumps(results, indent=2).encode(),
        "samples.jsonl.gz": samples,
        **terms_file(terms),
    }

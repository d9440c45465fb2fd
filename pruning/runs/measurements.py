"""Measure masks, each once, and put what is measured into results.

A measurement belongs to (model, evaluation data, mask) and is kept in a file, so equal masks are measured once,
whichever cells, objectives and evaluations ask for them. An evaluation adds to what earlier ones have found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from pruning.core import atomic_files
from pruning.core.errors import LossError
from pruning.core.hashing import text_sha256
from pruning.core.mask import Mask
from pruning.core.metric_names import error_of, kind_of, metrics_among, without_error
from pruning.core.result import EvaluationRecord
from pruning.distributed import collectives
from pruning.evaluation import Data, Evaluation, Measured

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

MEASURED = {"dense", "pruned", "uncompensated"}  # what has metrics in a result's `evaluation`
# Parts of a result's `evaluation` to which each evaluation adds its own metrics.
GROWING = ("dense", "pruned", "uncompensated", "data", "how", "records", "overlap", "files", "settings")


@dataclass(frozen=True)
class MaskMetrics:
    """The metrics of a mask and, by metric, how each was measured."""

    metrics: dict[str, Any]
    how: dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Measures masks of one model and remembers them in files, in a folder for each of the data."""

    evaluation: Evaluation
    data: Mapping[str, Data]
    forward: Forward
    folders: Mapping[str, Path]

    def __call__(self, mask: Mask) -> MaskMetrics:
        """The metrics of a mask; what is already in files is not measured again."""
        found = {name: self._once(name, mask) for name in self.data}
        metrics = {name: value for one in found.values() for name, value in one.metrics.items()}
        how = {name: one.how for name, one in found.items()}
        if self.evaluation.averages and (mean := averaged(metrics)):
            metrics |= mean
            how["acc/mean"] = {"of": [name for name in found if name.startswith("acc/")]}
        return MaskMetrics(metrics, how)

    def path(self, name: str, mask: Mask) -> Path:
        """The file of a measurement; what else is kept of it has the same stem."""
        label = text_sha256(json.dumps(mask.to_json()))[:16]
        return self.folders[name] / f"{label}.json"

    def _once(self, name: str, mask: Mask) -> Measured:
        """What is known of a mask, or what is measured now, while other processes wait for it."""
        path = self.path(name, mask)
        with _alone(path):
            known = collectives.broadcast(atomic_files.read_json(path) if path.exists() else None)
            return self._measured(name, mask) if known is None else Measured(known["metrics"], known["how"])

    def _measured(self, name: str, mask: Mask) -> Measured:
        measured = self.evaluation.measure(self.forward, name, self.data[name], mask)
        if not all(math.isfinite(value) for value in measured.metrics.values() if isinstance(value, float)):
            raise LossError(
                f"the evaluation of blocks {list(mask.dropped)} removed is not finite: {measured.metrics}."
            )
        path = self.path(name, mask)
        if collectives.is_first():
            for ending, content in measured.files.items():
                atomic_files.write_bytes(path.with_name(f"{path.stem}.{ending}"), content)
            atomic_files.write_json(
                path, {"mask": mask.to_json(), "metrics": measured.metrics, "how": measured.how}
            )
        return measured


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """`acc/mean` over the accuracies, each weighing the same, and its standard error; nothing for fewer than two."""
    names = [name for name in metrics_among(metrics) if kind_of(name) == "acc"]
    if len(names) < 2:
        return {}
    error = math.sqrt(math.fsum(metrics[error_of(name)] ** 2 for name in names)) / len(names)
    return {"acc/mean": math.fsum(metrics[name] for name in names) / len(names), error_of("acc/mean"): error}


def mean_of(evaluation: EvaluationRecord, names: Collection[str]) -> dict[str, Any]:
    """The mean accuracy over some metrics of a result, where another evaluation may have left the mean of its own."""
    accuracies = [name for name in names if name.startswith("acc/")]
    means = {}
    for which in MEASURED & evaluation.keys():
        known = cast(Mapping[str, Any], evaluation)[which].items()
        means[which] = averaged({key: v for key, v in known if without_error(key) in accuracies})
    return {**means, "how": {"acc/mean": {"of": accuracies}}} if any(means.values()) else {}


def digests(data: Mapping[str, Data]) -> dict[str, str]:
    """What identifies the evaluation data: a metric's name to the SHA-256 of its samples or documents."""
    return {metric: one.sha256 for metric, one in data.items()}


def merged(earlier: EvaluationRecord, new: Mapping[str, Any]) -> EvaluationRecord:
    """The `evaluation` of a result with another one added: of a metric that both have, the new value."""
    old: Mapping[str, Any] = cast(Mapping[str, Any], earlier)
    both = {**old, **new}
    for part in GROWING:
        if part in both:
            both[part] = {**old.get(part, {}), **new.get(part, {})}
    clean = new.get("data", {}).keys() - new.get("overlap", {}).keys()
    if "overlap" in both and not (both := both | {"overlap": _without(both["overlap"], clean)})["overlap"]:
        del both["overlap"]
    return cast(EvaluationRecord, both)


def _without(values: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else measures this meanwhile. Of several ranks with one task, the first keeps the others out."""
    if not collectives.is_first():
        yield
        return
    locks = path.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.parent.name}-{path.stem}.lock"):
        yield

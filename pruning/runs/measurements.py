"""Measure each mask once, and add the measurements to results.

A measurement depends on (model, evaluation data, mask, compensating factors) and is kept in a file. So a mask is
measured once, even if several cells, objectives and evaluations need the measurement. A new evaluation adds its
metrics to the metrics of earlier evaluations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, LossError, PruningError, first_line
from pruning.core.hashing import text_sha256
from pruning.core.mask import Mask
from pruning.core.metric_names import error_of, kind_of, main_of, metrics_among, without_error
from pruning.core.result import EvaluationRecord
from pruning.distributed import collectives
from pruning.evaluation import Data, DataBesideDense, Evaluation, Measured
from pruning.runs.progress import batches_shown

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

MEASURED = {
    "dense",
    "pruned",
    "uncompensated",
    "healed",
}  # parts of a result's `evaluation` that contain metrics
# Parts of a result's `evaluation` to which each evaluation adds its own metrics.
GROWING = (
    "dense",
    "pruned",
    "uncompensated",
    "healed",
    "data",
    "how",
    "records",
    "overlap",
    "files",
    "settings",
)


@dataclass(frozen=True)
class MaskMetrics:
    """The metrics of a mask and, for each metric, how it was measured."""

    metrics: dict[str, Any]
    how: dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Measures masks of one model and keeps the measurements in files, in one folder per metric.

    `dense` holds the file of the dense model's measurement of each metric. It is empty when the dense model is
    measured.
    """

    evaluation: Evaluation
    data: Mapping[str, Data]
    forward: Forward
    folders: Mapping[str, Path]
    whole: str = "the dense model"  # what the mask that removes nothing stands for
    dense: Mapping[str, Path] = field(default_factory=dict)

    def __call__(self, mask: Mask) -> MaskMetrics:
        """The metrics of a mask. A measurement that is already in a file is read and not repeated."""
        measurements = {name: self._once(name, mask) for name in self.data}
        metrics = {name: value for m in measurements.values() for name, value in m.metrics.items()}
        how = {name: measured.how for name, measured in measurements.items()}
        if self.evaluation.averages and (mean := averaged(metrics)):
            metrics |= mean
            how["acc/mean"] = {"of": [name for name in measurements if name.startswith("acc/")]}
        return MaskMetrics(metrics, how)

    def path(self, name: str, mask: Mask) -> Path:
        """The JSON file of a measurement. The other files of the measurement have the same stem."""
        return measurement_path(self.folders[name], mask)

    def has(self, mask: Mask) -> bool:
        """Whether all measurements of a mask are in files. All ranks get the same answer."""
        return collectives.on_first(lambda: all(self.path(name, mask).exists() for name in self.data))

    def _once(self, name: str, mask: Mask) -> Measured:
        """Read a mask's measurement from its file. If there is no file, measure it while other processes wait."""
        path = self.path(name, mask)
        with _alone(path):
            known = collectives.on_first(lambda: _read(path, mask) if path.exists() else None)
            return self._measured(name, mask) if known is None else known

    def _measured(self, name: str, mask: Mask) -> Measured:
        data = self.data[name]
        if name in self.dense and isinstance(data, DataBesideDense):
            data = data.beside(self.dense[name])
        title = f"{name} {f'without {mask}' if mask.dropped else f'of {self.whole}'}"
        with batches_shown(title) as watch:
            forward = self.forward.watched(watch)
            measured = self.evaluation.measure(forward, name, data, mask)
        if not all(math.isfinite(value) for value in measured.metrics.values() if isinstance(value, float)):
            raise LossError(
                f"the evaluation with {mask.described()} removed is not finite: {measured.metrics}. "
                "Try model.dtype=float32."
            )
        path = self.path(name, mask)
        if collectives.is_first():
            for ending, content in measured.files.items():
                atomic_files.write_bytes(path.with_name(f"{path.stem}.{ending}"), content)
            atomic_files.write_record(
                path, {"mask": mask.to_json(), "metrics": measured.metrics, "how": measured.how}
            )
        return measured


def measurement_path(folder: Path, mask: Mask) -> Path:
    """The JSON file of a mask's measurement in the folder of a metric."""
    return folder / f"{text_sha256(json.dumps(mask.to_json()))[:16]}.json"


def _read(path: Path, mask: Mask) -> Measured:
    """The measurement in a file. Raises DamagedError unless it is one of this mask with finite values."""
    known = atomic_files.read_json(path)
    try:
        found = Measured(dict(known["metrics"]), dict(known["how"]))
        if Mask.from_json(known["mask"]) != mask:
            raise ValueError(f"it is of mask={known['mask']}")
        if wrong := [
            name
            for name, value in found.metrics.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]:
            raise ValueError(f"{wrong[0]}={found.metrics[wrong[0]]}")
    except (KeyError, TypeError, ValueError, PruningError) as error:
        raise DamagedError(
            f"{path} is not the measurement of {mask.described()} ({first_line(error)}): move it away and run again."
        ) from error
    return found


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """`acc/mean`, the unweighted mean accuracy, and its standard error; empty for fewer than two accuracies.

    If an accuracy has no standard error, neither has the mean.
    """
    names = [name for name in metrics_among(metrics) if kind_of(name) == "acc"]
    if len(names) < 2:
        return {}
    mean = {"acc/mean": math.fsum(metrics[name] for name in names) / len(names)}
    errors = [metrics[error_of(name)] for name in names if error_of(name) in metrics]
    if len(errors) < len(names):
        return mean
    return mean | {error_of("acc/mean"): math.sqrt(math.fsum(error**2 for error in errors)) / len(names)}


def mean_of(evaluation: EvaluationRecord, names: Collection[str]) -> dict[str, Any]:
    """For each model of a result, the mean of the accuracies among the metrics `names`, if all were measured.

    This mean replaces the mean of an earlier evaluation.
    """
    accuracies = [name for name in names if name.startswith("acc/")]
    means = {}
    for which in MEASURED & evaluation.keys():
        known = cast(Mapping[str, Any], evaluation)[which]
        if known.keys() >= set(accuracies):
            means[which] = averaged({k: v for k, v in known.items() if without_error(k) in accuracies})
    return {**means, "how": {"acc/mean": {"of": accuracies}}} if any(means.values()) else {}


def digests(data: Mapping[str, Data]) -> dict[str, str]:
    """The identity of the evaluation data: for each metric, the SHA-256 of its samples or documents."""
    return {metric: evaluated.sha256 for metric, evaluated in data.items()}


def merged(earlier: EvaluationRecord, new: Mapping[str, Any]) -> EvaluationRecord:
    """Add a new evaluation to the `evaluation` of a result. If both contain a metric, the new value is kept.

    A new evaluation is of the dense and the pruned model. What was measured of a healed model is kept, except on data
    that have changed.
    """
    old = _without_stale(cast(Mapping[str, Any], earlier), new)
    both = {**old, **new}
    for part in GROWING:
        if part in both:
            both[part] = {**old.get(part, {}), **new.get(part, {})}
    for metric, paths in old.get("records", {}).items():
        if "healed" in paths:
            both["records"][metric] = {"healed": paths["healed"], **both["records"][metric]}
    clean = new.get("data", {}).keys() - new.get("overlap", {}).keys()
    if "overlap" in both and not (both := both | {"overlap": _without(both["overlap"], clean)})["overlap"]:
        del both["overlap"]
    return cast(EvaluationRecord, both)


def _without_stale(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """An evaluation without the healed model's metrics on data that differ in a new one, and without such a mean."""
    data, how = old.get("data", {}), old.get("how", {})
    stale = {metric for metric, sha256 in new.get("data", {}).items() if data.get(metric, sha256) != sha256}
    if (mean := new.get("how", {}).get("acc/mean")) is not None and mean != how.get("acc/mean"):
        stale.add("acc/mean")
    if not stale or "healed" not in old:
        return old
    if any(kind_of(metric) == "acc" for metric in stale):
        stale.add("acc/mean")
    gone = {name for name in old["healed"] if main_of(without_error(name)) in stale}
    records = {
        metric: _without(paths, {"healed"} if metric in stale else set())
        for metric, paths in old.get("records", {}).items()
    }
    return {**old, "healed": _without(old["healed"], gone), "records": records}


def _without(values: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within this context, no other process makes this measurement.

    If there are several ranks, the first rank takes the lock for all.
    """
    if not collectives.is_first():
        yield
        return
    locks = path.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.parent.name}-{path.stem}.lock"):
        yield

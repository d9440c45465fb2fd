"""Measure each mask once, and add the measurements to results.

A measurement depends on the model, the evaluation data, the mask, and its compensation or repair. It is
stored in a file, so a mask is measured only once, even if several cells, objectives or evaluations need it. A
new evaluation adds its metrics to those of earlier evaluations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock

from pruning.calibration import digests_of
from pruning.core import records, storage
from pruning.core.errors import DamagedError, InputError, LossError
from pruning.core.mask import Mask, unit_noun
from pruning.core.storage import digest, text_sha256
from pruning.core.terminal import progress_bar
from pruning.engine import collectives
from pruning.engine.compensation import Linear
from pruning.evaluation import SPEED, Data, Evaluation, Measured
from pruning.runs.cell import FORMAT, Cell, Prepared, forward_of, model_of, save_config, save_result

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.output_maps import Repair
    from pruning.models.placement import LanguageModel, ModelInfo

# The mappings in a result's `evaluation` that a new evaluation extends instead of replacing them.
GROWING = (*records.MODELS, "data", "how", "records", "overlap", "files", "settings")


@dataclass(frozen=True)
class Evaluator:
    """Measures masks of one model and stores the measurements in files, in one folder per metric.

    `dense` maps each metric to the file of the dense model's measurement, which some metrics need.
    """

    evaluation: Evaluation
    data: Mapping[str, Data]
    forward: Forward
    folders: Mapping[str, Path]
    whole: str = "the dense model"  # what messages call the mask that removes nothing
    dense: Mapping[str, Path] = field(default_factory=dict)

    def __call__(self, mask: Mask, beside: Sequence[Mask] = ()) -> Measured:
        """All metrics of a mask, and how each was measured. Measurements that are in files are not repeated.

        The same forward passes also score the masks in `beside`, which are measured next.
        """
        measurements = {name: self._once(name, mask, beside) for name in self.data}
        metrics = {name: value for m in measurements.values() for name, value in m.metrics.items()}
        how = {name: measured.how for name, measured in measurements.items()}
        if mean := averaged(metrics):
            metrics |= mean
            how["acc/mean"] = {"of": [name for name in measurements if name.startswith("acc/")]}
        return Measured(metrics, how)

    def path(self, name: str, mask: Mask) -> Path:
        """The JSON file of a mask's measurement. Other files of the measurement have the same stem."""
        return measurement_path(self.folders[name], mask)

    def has(self, mask: Mask) -> bool:
        """Whether all measurements of a mask are in files. All ranks get the same answer."""
        return collectives.on_first(lambda: all(self.path(name, mask).exists() for name in self.data))

    def _once(self, name: str, mask: Mask, beside: Sequence[Mask]) -> Measured:
        """Read a mask's measurement from its file. If there is no file, measure while other processes wait."""
        path = self.path(name, mask)
        with _alone(path):
            known = collectives.on_first(lambda: storage.read_json(path) if path.exists() else None)
            if known is not None and Mask.from_json(known["mask"]) != mask:
                raise DamagedError(
                    f"{path} is not the measurement of {mask.described()}: move it away and run again."
                )
            if known is not None:
                return Measured(known["metrics"], known["how"])
            data = self.data[name]
            if self.dense.get(name, path) != path and hasattr(data, "beside"):
                data = data.beside(self.dense[name])
            title = f"{name} {f'without {mask}' if mask.dropped else f'of {self.whole}'}"
            others = collectives.on_first(
                lambda: [one for one in beside if not self.path(name, one).exists()]
            )
            with batches_shown(title) as watch:
                forward = self.forward.watched(watch).beside([mask, *others])
                measured = self.evaluation.measure(forward, name, data, mask)
            if any(isinstance(one, float) and not math.isfinite(one) for one in measured.metrics.values()):
                raise LossError(
                    f"the evaluation with {mask.described()} removed is not finite: {measured.metrics}. "
                    "Try model.dtype=float32."
                )
            if collectives.is_first():
                for ending, content in measured.files.items():
                    storage.write_bytes(path.with_name(f"{path.stem}.{ending}"), content)
                record = {"mask": mask.to_json(), "metrics": measured.metrics, "how": measured.how}
                storage.write_record(path, record)
            return measured


def measurement_path(folder: Path, mask: Mask) -> Path:
    """The JSON file of a mask's measurement in the folder of a metric."""
    return folder / f"{text_sha256(json.dumps(mask.to_json()))[:16]}.json"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A context in which no other process makes this measurement; the first rank takes the lock for all ranks."""
    if not collectives.is_first():
        yield
        return
    locks = path.parent.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.parent.name}-{path.stem}.lock"):
        yield


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """`acc/mean`, the unweighted mean accuracy, and its standard error; empty if there are fewer than two accuracies.

    If any accuracy has no standard error, the mean has none either.
    """
    names = [name for name in records.metrics_among(metrics) if records.kind_of(name) == "acc"]
    if len(names) < 2:
        return {}
    mean = {"acc/mean": math.fsum(metrics[name] for name in names) / len(names)}
    errors = [metrics[records.error_of(name)] for name in names if records.error_of(name) in metrics]
    if len(errors) < len(names):
        return mean
    return mean | {
        records.error_of("acc/mean"): math.sqrt(math.fsum(error**2 for error in errors)) / len(names)
    }


# Measure the mask of a cell, and the dense model, with the cell's evaluation.

Scales = tuple[float, ...] | None  # a factor for each unit of the model


def evaluate_mask(
    prepared: Prepared, mask: Mask, forward: Forward, scales: Scales, repair: Repair | None = None
) -> records.EvaluationRecord:
    """Metrics of the dense and the pruned model, and of the pruned model before any compensation or repair."""
    from pruning.models.output_maps import repaired

    cell, data, info = prepared.cell, prepared.data, forward.model.info
    files: dict[str, dict[str, str]] = {name: {} for name in data}
    forward = forward.fresh()
    if repair is not None and mask.unit == "block":
        # Blocks before the first removed or repaired block run once for all models.
        forward.keep = min(*mask.dropped, *(unit // 2 for unit in repair.maps))
    plain = mask_evaluator(prepared, info, mask, forward)

    def measure(kind: str, one: Mask, evaluator: Evaluator, *beside: Mask) -> dict[str, Any]:
        for name in data:
            files[name][kind] = evaluator.path(name, one).relative_to(cell.command.results).as_posix()
        measured = evaluator(one, beside)
        new["how"] = measured.how
        return measured.metrics

    new: dict[str, Any] = {"dense": {}, "pruned": {}}
    if SPEED not in data:
        new["dense"] = measure("dense", Mask(mask.n_blocks), plain, mask)
    if scales is None and repair is None:
        pruned = measure("pruned", mask, plain)
    else:
        if SPEED not in data:
            new["uncompensated"] = measure("uncompensated", mask, plain)
        with repaired(forward.model.module, repair):
            pruned = measure("pruned", mask, mask_evaluator(prepared, info, mask, forward, scales, repair))
    new |= pruned if SPEED in data else {"pruned": pruned}
    new |= {"data": digests(data), "records": files}
    new["settings"] = dict.fromkeys(data, cell.config["eval"])
    if local := digests_of(cell.evaluation):
        new["files"] = local
    if prepared.overlap:
        new["overlap"] = dict(prepared.overlap)
    return cast(records.EvaluationRecord, new)


def mask_evaluator(
    prepared: Prepared,
    info: ModelInfo,
    mask: Mask,
    forward: Forward | None,
    scales: Scales = None,
    repair: Repair | None = None,
    healed: records.HealRecord | None = None,
) -> Evaluator:
    """An evaluator of a mask that can be compensated (`scales`), repaired or healed.

    Before measuring, the caller folds a repair's maps into the weights. For a healed mask, `forward` runs the
    healed model. Without `forward`, the evaluator can only read measurements from files.
    """
    factors = None if scales is None else [scales[i] for i in mask.dropped]
    maps = None if repair is None else repair.sha256
    ending = "" if healed is None else f"-healed-{healed['weights_sha256'][:16]}"
    folders = {
        name: prepared.cell.command.results
        / "evaluation"
        / f"{evaluation_key(prepared, info, name, factors, maps)}{ending}"
        for name in prepared.data
    }
    if forward is not None and healed is None:
        forward = forward.with_scales(scales) if repair is None else forward.with_scales(scales).fresh()
    whole = "the dense model" if healed is None else "the healed model"
    dense = {
        name: measurement_path(
            prepared.cell.command.results / "evaluation" / evaluation_key(prepared, info, name),
            Mask(info.n_blocks),
        )
        for name in prepared.data
    }
    return Evaluator(prepared.cell.evaluation, prepared.data, cast(Any, forward), folders, whole, dense)


def digests(data: Mapping[str, Data]) -> dict[str, str]:
    """For each metric, the SHA-256 of its samples or documents."""
    return {metric: evaluated.sha256 for metric, evaluated in data.items()}


def evaluation_key(
    prepared: Prepared,
    info: ModelInfo,
    metric: str,
    scales: list[float] | None = None,
    repair: str | None = None,
) -> str:
    """The name of the metric, followed by a digest of everything that its measurement depends on.

    The digest covers format, model, revision, data, compensating factors, and a repair's digest. If the metric
    is the speed, the digest also covers the devices on which the weights are placed.
    """
    data = [FORMAT, prepared.cell.model.identity(), info.revision, metric, prepared.data[metric].sha256]
    data += [scales] if scales is not None else []
    data += [{"repair": repair}] if repair is not None else []
    data += [placed] if metric == SPEED and (placed := prepared.cell.model.placement()) else []
    return f"{metric.replace('/', '-')}-{digest(data)}"


# Measure the mask of a finished cell again, with another evaluation. Nothing is searched again.


def reevaluate(prepared: Prepared, done: records.DoneResult) -> records.DoneResult:
    """Extend a finished cell's result by the requested evaluation (see `extended`), save it and return it."""
    cell, evaluation = prepared.cell, extended(prepared, done)
    config = {**done["config"], "eval": cell.config["eval"]}
    result: records.DoneResult = {**done, "evaluation": evaluation, "config": config}
    if result != done:
        save_config(cell, config)
        save_result(cell, result)
    return result


def extended(prepared: Prepared, done: records.DoneResult) -> records.EvaluationRecord:
    """The evaluation of a finished cell, extended by the evaluation that `prepared` requests.

    Only metrics that are not yet in a file are measured. If the result already contains all metrics, the model is not
    loaded. Raises InputError if the mask was found for another revision of the model, or for other weights.
    """
    cell, evaluation, started = prepared.cell, done["evaluation"], records.now()
    if not digests(prepared.data).items() <= evaluation.get("data", {}).items():
        model, mask = recorded_model(cell, done), Mask.from_json(done["mask"])
        scales, repair = recorded_scales(done), recorded_repair(cell, done)
        new: dict[str, Any] = dict(evaluate_mask(prepared, mask, forward_of(model), scales, repair))
        new["environment"] = records.provenance(started, str(model.device))
        evaluation = merged(evaluation, new)
    if local := digests_of(cell.evaluation):
        evaluation = merged(evaluation, {"files": local})
    if mean := _mean_of(evaluation, prepared.data):
        evaluation = merged(evaluation, mean)
    return evaluation


def merged(earlier: records.EvaluationRecord, new: Mapping[str, Any]) -> records.EvaluationRecord:
    """The `evaluation` of a result, extended by a new one. If both contain a metric, the new value is kept.

    A new evaluation measures only the dense and the pruned model. Earlier metrics of the healed model are
    kept unless the data of any metric have changed.
    """
    old = dict[str, Any](earlier)
    data, how = old.get("data", {}), new.get("how", {})
    if any(data.get(metric, sha256) != sha256 for metric, sha256 in new.get("data", {}).items()):
        old = without_healed(old)
    elif "healed" in old and how.get("acc/mean") not in (None, old.get("how", {}).get("acc/mean")):
        old["healed"] = _without(old["healed"], ["acc/mean", records.error_of("acc/mean")])
    both = {**old, **new}
    for part in GROWING:
        if part in both:
            both[part] = {**old.get(part, {}), **new.get(part, {})}
    if kept := old.get("records", {}):
        both["records"] = {name: kept.get(name, {}) | paths for name, paths in both["records"].items()}
    clean = new.get("data", {}).keys() - new.get("overlap", {}).keys()
    if "overlap" in both and not (both := both | {"overlap": _without(both["overlap"], clean)})["overlap"]:
        del both["overlap"]
    return cast(records.EvaluationRecord, both)


def without_healed(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An `evaluation` without the metrics of the healed model."""
    kept = {name: _without(paths, ["healed"]) for name, paths in evaluation.get("records", {}).items()}
    return _without(evaluation, ["healed"]) | {"records": kept}


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _mean_of(evaluation: records.EvaluationRecord, names: Collection[str]) -> dict[str, Any]:
    """A new `acc/mean` for each model whose metrics include all accuracies in `names`; empty if there is none."""
    accuracies = [name for name in names if name.startswith("acc/")]
    means: dict[str, Any] = {}
    for which in records.MODELS:
        known = evaluation.get(which)
        if known is not None and known.keys() >= set(accuracies):
            means[which] = averaged(
                {k: v for k, v in known.items() if records.without_error(k) in accuracies}
            )
    return {**means, "how": {"acc/mean": {"of": accuracies}}} if any(means.values()) else {}


def recorded_model(cell: Cell, done: records.DoneResult) -> LanguageModel:
    """The model of a finished cell. Raises InputError if its revision or weights differ from those in the result."""
    revision = done["model"]["revision"]
    if cell.model.in_directory:
        cell.model.check_same_weights(revision)
    model = model_of(cell)
    if not cell.model.in_directory and model.info.revision != revision:
        raise InputError(
            f"model {cell.model.name} has changed: its revision is {model.info.revision}, not {revision}. "
            f"A mask is evaluated on the model that it was found for: set model.revision={revision}."
        )
    return model


def recorded_scales(done: records.DoneResult) -> tuple[float, ...] | None:
    """The compensating factors in a result, one per unit (1 for kept units); None without compensation."""
    mask, factors = Mask.from_json(done["mask"]), done.get("compensation")
    return tuple(factors.get(str(unit), 1.0) for unit in range(mask.n_units)) if factors else None


# Compute the maps that repair a cell's mask and save them in the cell's folder, or read them.


def check_repair(prepared: Prepared, forward: Forward, unit: str) -> None:
    """Before a search, raise InputError if the cell's repair would be impossible for its masks."""
    from pruning.engine.repair import check

    if isinstance(prepared.cell.compensation, Linear):
        check(forward.model.module, unit, prepared.samples)


def new_repair(
    prepared: Prepared, forward: Forward, mask: Mask
) -> tuple[Repair | None, records.RepairRecord] | None:
    """A mask's repair (None if no map helps) and its record, as a pair; None if no repair is requested."""
    from pruning.engine.repair import measure

    cell = prepared.cell
    if not isinstance(cell.compensation, Linear):
        return None
    repair, record = measure(forward, prepared.samples, mask, cell.compensation)
    if collectives.is_first() and repair.maps:
        repair.save(cell.folder)
    return repair if repair.maps else None, record


def recorded_repair(cell: Cell, done: records.DoneResult) -> Repair | None:
    """The maps of a finished cell; None if it has none. Raises DamagedError if the file is missing or damaged."""
    from pruning.models.output_maps import read_repair

    if (record := done.get("repair")) is None or not records.is_repaired(record):
        return None
    return collectives.on_first(lambda: read_repair(cell.folder, record["sha256"]))


# Progress bars: of a search (evaluations done, best loss, time left), and of one measurement (batches done).

# If a search can need more evaluations than this, no total is shown: it may end much earlier.
OPEN = 100_000
# A narrow terminal cuts off the end of a bar, so the least important parts come last.
BAR = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} evaluations [{elapsed}<{remaining}]{postfix}  {desc}"
COUNT = "{n_fmt} evaluations [{elapsed}]{postfix}  {desc}"
PART = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} batches [{elapsed}<{remaining}]  {desc}"


def _bar(title: str, form: str, hidden: bool = False, **settings: Any) -> Any:
    return progress_bar(title, form, hidden or not collectives.is_first(), **settings)


@contextmanager
def search_shown(
    title: str, total: int, known: int = 0, hidden: bool = False, unit: str = "block"
) -> Iterator[Callable[[int, float, int], None]]:
    """Yield a function show(evaluations, best, size) that displays the number of scored masks and the lowest loss.

    `best` is the lowest loss among the masks that remove the most units; `size` is how many units of the kind
    `unit` ("block" or "sublayer") these masks remove. Losses of masks of different sizes cannot be compared.
    """
    shown, form = (total, BAR) if total <= OPEN else (None, COUNT)
    with _bar(title, form, hidden, total=shown, initial=min(known, total), unit="eval") as bar:

        def show(evaluations: int, best: float, size: int) -> None:
            if size:
                what = f"{size} {unit_noun(unit)}{'s' * (size != 1)}"
                bar.set_postfix_str(f"best loss {best:.4f} without {what}", refresh=False)
            # `evaluations` also counts the dense model and a final mask that the search did not score.
            bar.update(min(evaluations, total) - bar.n)

        yield show


@contextmanager
def batches_shown(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function show(done, total) that displays the number of finished batches, but only after one second."""
    with _bar(title, PART, leave=False, delay=1.0) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show

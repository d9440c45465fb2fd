"""Measure the mask of a cell, and the dense model, with the cell's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core.hashing import digest
from pruning.core.mask import Mask
from pruning.core.result import EvaluationRecord
from pruning.evaluation import digests_of
from pruning.evaluation.overlap import overlaps
from pruning.runs.cell_identity import FORMAT
from pruning.runs.measurements import Evaluator, MaskMetrics, digests, measurement_path
from pruning.runs.prepare import Prepared

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.repaired_weights import Repair
    from pruning.models.spec import ModelInfo

Scales = tuple[float, ...] | None  # a factor for each block of the model


def evaluate_mask(
    prepared: Prepared, mask: Mask, forward: Forward, scales: Scales, repair: Repair | None = None
) -> EvaluationRecord:
    """Metrics of the dense and the pruned model; with compensation, also of the pruned model without it."""
    cell, data = prepared.cell, prepared.data
    measure = _Measure(prepared, forward, {name: {} for name in data})
    new: dict[str, Any] = {"dense": {}, "pruned": {}}
    if not cell.evaluation.compares:
        new["dense"] = measure("dense", Mask(mask.n_blocks), None).metrics
    pruned = measure("pruned", mask, scales, repair)
    new |= pruned.metrics if cell.evaluation.compares else {"pruned": pruned.metrics}
    if (scales is not None or repair is not None) and not cell.evaluation.compares:
        new["uncompensated"] = measure("uncompensated", mask, None).metrics
    new |= {"data": digests(data), "how": pruned.how, "records": measure.records}
    new["settings"] = dict.fromkeys(data, cell.config["eval"])
    if local := digests_of(cell.evaluation.files()):
        new["files"] = local
    if shared := overlaps(prepared.samples, data):  # only with eval.allow_overlap
        new["overlap"] = shared
    return cast(EvaluationRecord, new)


@dataclass(frozen=True)
class _Measure:
    """Measures masks of a cell. The path of each measurement is added to `records[metric][kind of model]`."""

    prepared: Prepared
    forward: Forward
    records: dict[str, dict[str, str]]

    def __call__(self, kind: str, mask: Mask, scales: Scales, repair: Repair | None = None) -> MaskMetrics:
        from pruning.models.repaired_weights import repaired

        cell, data = self.prepared.cell, self.prepared.data
        factors = None if scales is None else [scales[i] for i in mask.dropped]
        digest_of_maps = None if repair is None else repair.sha256
        info, plain = self.forward.model.info, self.forward.with_scales(scales)
        keys = {name: evaluation_key(self.prepared, info, name, factors, digest_of_maps) for name in data}
        folders = {name: cell.results / "evaluation" / key for name, key in keys.items()}
        forward = plain if repair is None else plain.fresh()
        dense = {} if kind == "dense" else dense_files(self.prepared, info)
        evaluator = Evaluator(cell.evaluation, data, forward, folders, dense=dense)
        for name in data:
            self.records[name][kind] = evaluator.path(name, mask).relative_to(cell.results).as_posix()
        with repaired(self.forward.model.module, repair):
            return evaluator(mask)


def dense_files(prepared: Prepared, info: ModelInfo) -> Mapping[str, Path]:
    """The file of the dense model's measurement of each metric."""
    folder, dense = prepared.cell.results / "evaluation", Mask(info.n_blocks)
    return {
        name: measurement_path(folder / evaluation_key(prepared, info, name), dense) for name in prepared.data
    }


def evaluation_key(
    prepared: Prepared,
    info: ModelInfo,
    metric: str,
    scales: list[float] | None = None,
    repair: str | None = None,
) -> str:
    """The metric and a digest of what its measurement depends on.

    These are format, model and arithmetic, revision, exact data, factors, and the digest of the maps of a repair; of
    speed, also where the weights are.
    """
    data = [FORMAT, prepared.cell.arithmetic(), info.revision, metric, prepared.data[metric].sha256]
    data += [scales] if scales is not None else []
    data += [{"repair": repair}] if repair is not None else []
    data += [placed] if metric == "speed" and (placed := prepared.cell.model.placement()) else []
    return f"{metric.replace('/', '-')}-{digest(data)}"

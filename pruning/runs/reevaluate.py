"""Measure the mask of a finished cell again, with another evaluation. Nothing is searched again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.provenance import now, provenance
from pruning.core.result import DoneResult
from pruning.evaluation import digests_of
from pruning.models.recorded_weights import check_same_weights
from pruning.runs.cell_files import save_config, save_result
from pruning.runs.cell_model import forward_of, model_of
from pruning.runs.cell_repair import recorded_repair
from pruning.runs.evaluate_mask import evaluate_mask
from pruning.runs.measurements import digests, mean_of, merged
from pruning.runs.prepare import Prepared

if TYPE_CHECKING:
    from pruning.models.loader import LanguageModel
    from pruning.runs.cell import Cell


def reevaluate(prepared: Prepared, done: DoneResult) -> DoneResult:
    """The result of a finished cell, extended by the evaluation that is now requested.

    Only metrics that are not yet in a file are measured. If the result already contains all metrics, the model is not
    loaded. Raises InputError if the mask was found for another revision of the model, or for other weights.
    """
    if not missing(prepared, done):
        return _with_evaluation(prepared, done)
    cell, started = prepared.cell, now()
    model, mask = recorded_model(cell, done), Mask.from_json(done["mask"])
    scales, repair = recorded_scales(done), recorded_repair(cell, done)
    new: dict[str, Any] = dict(evaluate_mask(prepared, mask, forward_of(cell, model), scales, repair))
    new["environment"] = provenance(started, str(model.device))
    evaluated = {**done, "evaluation": merged(done["evaluation"], new)}
    return _with_evaluation(prepared, cast(DoneResult, evaluated), grown=True)


def recorded_model(cell: Cell, done: DoneResult) -> LanguageModel:
    """The model of a finished cell. Raises InputError if it has another revision or other weights than the result."""
    revision = done["model"]["revision"]
    if cell.model.in_directory:
        check_same_weights(cell.model, revision, done["environment"].get("started"))
    model = model_of(cell)
    if not cell.model.in_directory and model.info.revision != revision:
        raise InputError(
            f"model {cell.model.name} has changed: its revision is {model.info.revision}, not {revision}. "
            f"A mask is evaluated on the model that it was found for: set model.revision={revision}."
        )
    return model


def recorded_scales(done: DoneResult) -> tuple[float, ...] | None:
    """The factors of a result's compensation, one per unit; None without compensation."""
    mask, factors = Mask.from_json(done["mask"]), done.get("compensation")
    return tuple(factors.get(str(unit), 1.0) for unit in range(mask.n_units)) if factors else None


def missing(prepared: Prepared, result: DoneResult) -> bool:
    """Whether a finished cell lacks measurements that are now requested."""
    measured: Mapping[str, str] = result["evaluation"].get("data", {})
    return not digests(prepared.data).items() <= measured.items()


def _with_evaluation(prepared: Prepared, done: DoneResult, grown: bool = False) -> DoneResult:
    """Put the current evaluation into the configuration of a result; write the result if anything has changed."""
    cell = prepared.cell
    result = cast(DoneResult, {**done, "config": {**done["config"], "eval": cell.config["eval"]}})
    if local := digests_of(cell.evaluation.files()):
        result["evaluation"] = merged(done["evaluation"], {"files": local})
    if cell.evaluation.averages and (mean := mean_of(done["evaluation"], prepared.data)):
        result["evaluation"] = merged(result["evaluation"], mean)
    if grown or result != done:
        save_config(cell, result["config"])
        save_result(cell, result)
    return result

"""Build the records of `result.json` from a search's solution."""

from __future__ import annotations

import math
import traceback
from dataclasses import asdict
from typing import cast

from pruning.core.atomic_files import appending
from pruning.core.os_errors import sentence
from pruning.core.provenance import now, provenance
from pruning.core.result import LOG, CalibrationRecord, FailedResult, ModelRecord
from pruning.core.search_record import SearchRecord
from pruning.core.space import Space
from pruning.distributed import collectives
from pruning.engine.cost import Cost
from pruning.evaluation.text import HIGHEST
from pruning.models.spec import ModelInfo
from pruning.runs.cell import Cell
from pruning.runs.prepare import Prepared
from pruning.search.driver import Solution


def model_record(info: ModelInfo) -> ModelRecord:
    """The record of the model."""
    return cast(ModelRecord, asdict(info))


def calibration_record(
    prepared: Prepared, solution: Solution, standard_error: float | None
) -> CalibrationRecord:
    """The record of the samples and of the loss that was minimised on them."""
    samples, loss = prepared.samples, solution.score.loss
    record: CalibrationRecord = {
        "objective": prepared.cell.choices.objective,
        "source": samples.source,
        "samples": samples.count,
        "length": samples.length,
        "seed": samples.seed,
        "sha256": samples.sha256,
        "loss": loss,
        "dense_loss": solution.dense.loss,
        "standard_error": standard_error,
    }
    if prepared.cell.choices.objective == "perplexity":
        record["perplexity"] = math.exp(min(loss, HIGHEST))
    return record


def search_record(cell: Cell, space: Space, solution: Solution, cost: Cost) -> SearchRecord:
    """The record of the search and of its cost."""
    record: SearchRecord = {
        "algo": cell.choices.algo,
        "k": len(solution.score.mask.dropped),
        "ratio": solution.score.mask.ratio,
        "stopped": solution.why,
        "evaluations_asked": _count(solution.asked),
        "evaluations_paid": _count(solution.paid),
        "evaluations_shared": _count(solution.shared),
        "seconds": round(solution.seconds, 3),
    }
    if (spent := cell.removal.record(space, solution.score.mask)) is not None:
        record["budget"] = spent
    return cast(SearchRecord, record | asdict(cost))


def failed_result(cell: Cell, error: BaseException) -> FailedResult:
    """Return the result of a cell that failed, and append the error's traceback to the cell's log."""
    log_path = cell.folder / LOG
    message = sentence(error) if isinstance(error, OSError) else str(error)
    cell.folder.mkdir(parents=True, exist_ok=True)
    if collectives.is_first():
        with appending(log_path) as stream:
            traceback.print_exception(error, file=stream)
    return {
        "cell": cell.key,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": message, "log": str(log_path)},
        "config": dict(cell.config),
        "environment": provenance(now(), None),
    }


def _count(evaluations: float) -> float:
    """A number of evaluations, rounded for a result.

    It can be a fraction, because an evaluation on a fraction of the samples counts as that fraction.
    """
    return int(evaluations) if float(evaluations).is_integer() else round(evaluations, 3)

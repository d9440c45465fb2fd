"""Run one cell from start to end: search, evaluate, write the result."""

from __future__ import annotations

import logging
import math
import traceback
from contextlib import suppress
from dataclasses import asdict
from typing import Any, cast

from pruning.core import records, scoring, storage
from pruning.core.errors import PruningError, RankError, is_fatal, sentence
from pruning.core.mask import SearchRecord, Space
from pruning.core.scoring import Estimate
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import Magnitude
from pruning.engine.dense_pass import magnitudes
from pruning.engine.forward import Cost
from pruning.evaluation.corpora import HIGHEST
from pruning.models.placement import ModelInfo
from pruning.objective import Calibrated
from pruning.runs import measurements
from pruning.runs.cell import (
    FORMAT,
    Cell,
    Prepared,
    cell_lock,
    cell_space,
    forward_of,
    model_of,
    save_config,
    save_result,
    settings_record,
)
from pruning.runs.heal_cell import healed_cell
from pruning.search.decide import FloatLoss
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, Store, claim

log = logging.getLogger(__name__)

COST = "cost.json"  # the cost of all runs of a search; the file exists until the search has finished


def run(prepared: Prepared) -> records.DoneResult:
    """Search, evaluate and record one cell. A cell that was stopped continues from its journal.

    Failures are raised, so that the study can record them. Raises BusyError if another process runs the cell,
    and RankError if one of several ranks fails.
    """
    cell = prepared.cell
    with cell_lock(cell):
        done = collectives.on_first(cell.done)
        drawn = [prepared.samples.sha256, measurements.digests(prepared.data)]
        if collectives.broadcast(drawn) != drawn:  # for example, if versions of libraries differ
            raise RankError("ranks have drawn different samples: install the same packages on all nodes.")
        result = _run(prepared) if done is None else measurements.reevaluate(prepared, done)
        return healed_cell(prepared, result)


def record_failure(cell: Cell, error: BaseException) -> records.FailedResult:
    """Write the result of a cell that failed. The next run of the same command runs the cell again.

    The traceback is appended to the cell's log. If an earlier run has finished the cell, or if the cell's files
    cannot be written, the failure is only logged and returned.
    """
    log_path = cell.folder / records.LOG
    message = sentence(error) if isinstance(error, OSError) else str(error)
    result: records.FailedResult = {
        "cell": cell.key,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": message, "log": str(log_path)},
        "config": dict(cell.config),
        "environment": records.provenance(records.now(), None),
    }
    try:
        storage.check_links(cell.folder)
        cell.folder.mkdir(parents=True, exist_ok=True)
        if collectives.is_first():
            with log_path.open("a", encoding="utf-8") as stream:
                traceback.print_exception(error, file=stream)
        with suppress(PruningError):  # a damaged result, or that of another cell, is not replaced either
            if cell.done() is None:
                save_result(cell, result)
    except (OSError, PruningError) as unwritable:
        if is_fatal(unwritable):
            raise
        why = sentence(unwritable) if isinstance(unwritable, OSError) else unwritable
        log.warning("the failure of %s is not recorded: %s", cell.key, why)
    return result


def _run(prepared: Prepared) -> records.DoneResult:
    cell, samples, started = prepared.cell, prepared.samples, records.now()
    save_config(cell, cell.config)
    if collectives.is_first():
        samples.save(cell.command.results / "calibration")
    model = model_of(cell)
    forward = forward_of(model)
    space = cell_space(cell, model)
    measurements.check_repair(prepared, forward, space.unit)
    key = score_key(prepared, model.info, space.unit)
    # Raises ForeignError if the cell's journal belongs to other samples or weights.
    claim(cell.command.results, key, cell.key)
    scales = None
    if isinstance(cell.compensation, Magnitude):
        scales = magnitudes(forward, samples.rows, space.unit)
    searched = forward.with_scales(scales if cell.compensation.search else None)
    losses = Calibrated(cell.objective, searched, samples)
    try:
        solution, cost = _search(cell, space, losses, key)
    finally:
        searched.release()
    mask = solution.score.mask
    if collectives.is_first():
        storage.write_json(cell.folder / records.MASK, mask.to_json())
    repair, repair_record = measurements.new_repair(prepared, forward, mask) or (None, None)
    result: records.DoneResult = {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": cast(records.ModelRecord, asdict(model.info)),
        "mask": mask.to_json(),
        "calibration": _calibration_record(prepared, solution, losses.whole.estimate),
        "search": _search_record(cell, space, solution, cost),
        "margins": solution.margins,
        "config": dict(cell.config),
        "evaluation": measurements.evaluate_mask(prepared, mask, forward, scales, repair),
        "environment": records.provenance(started, str(model.device)),
    }
    if scales is not None:
        result["compensation"] = {str(i): scales[i] for i in mask.dropped}
    if repair_record is not None:
        result["repair"] = repair_record
    save_result(cell, result)
    if collectives.is_first():
        (cell.folder / COST).unlink(missing_ok=True)  # the result now contains it
    return result


def score_key(prepared: Prepared, info: ModelInfo, unit: str = "block") -> str:
    """A digest of everything that a loss depends on, such as the model, objective and exact samples.

    `unit` is the kind of unit that masks remove. It is included because journals identify units by their numbers.
    """
    cell = prepared.cell
    data: list[Any] = [FORMAT, cell.model.identity(), info.revision]
    data += [settings_record(cell.objective), prepared.samples.sha256]
    data += [settings_record(cell.compensation)] if cell.compensation.search else []
    return digest([*data, unit] if unit != "block" else data)


def _search(cell: Cell, space: Space, losses: Calibrated, key: str) -> tuple[Solution, Cost]:
    """The solution of the search and its cost. Raises DamagedError if a line of a journal contradicts itself."""
    estimate = losses.whole.estimate

    def journal(name: str) -> Journal:
        opened = Journal.open(cell.folder / name, space.n_blocks, estimate, space.unit)
        if cell.command.share:
            opened.others = Store(
                cell.command.results, key, cell.key, space.n_blocks, space.unit, estimate, name
            )
        return opened

    own = journal(scoring.NAME)
    single = FloatLoss(losses.in_float32, journal(scoring.FLOAT32)) if losses.in_half else None
    limits = cell.near_ties, cell.max_evaluations
    problem = Problem(cell.algo, space, cell.seed, cell.racing, *limits, bounds=cell.command.alone)
    title = f"{cell.model.name} {cell.option('objective')} {cell.option('algo')}"
    path, running, saved = cell.folder / COST, losses.forward.cost, Cost()
    earlier = collectives.on_first(lambda: Cost(**storage.read_json(path)) if path.exists() else Cost())
    with measurements.search_shown(
        title, cell.evaluations(space), known=len(own.scores), unit=space.unit
    ) as show:

        def watch(evaluations: int, best: float, size: int) -> None:
            nonlocal saved
            show(evaluations, best, size)
            spent = running.over_ranks()
            if spent != saved and collectives.is_first():
                storage.write_json(path, asdict(earlier.plus(spent)))
            saved = spent

        solution = solve(problem, losses, own, watch, single, journal(scoring.BOUNDS))
    return solution, earlier.plus(running.over_ranks())


def _calibration_record(
    prepared: Prepared, solution: Solution, estimate: Estimate
) -> records.CalibrationRecord:
    """The record of the calibration samples and of the chosen mask's loss on them."""
    samples, score, objective = prepared.samples, solution.score, prepared.cell.option("objective")
    record: records.CalibrationRecord = {
        "objective": objective,
        "source": samples.source,
        "samples": samples.count,
        "length": samples.length,
        "seed": samples.seed,
        "sha256": samples.sha256,
        "loss": score.loss,
        "dense_loss": solution.dense.loss,
        "standard_error": estimate.stated_error(score.samples),
    }
    if objective == "perplexity":
        record["perplexity"] = math.exp(min(score.loss, HIGHEST))
    return record


def _search_record(cell: Cell, space: Space, solution: Solution, cost: Cost) -> SearchRecord:
    def count(evaluations: float) -> float:
        """The number of evaluations: an int, or a float if some masks were evaluated on a fraction of the samples."""
        return int(evaluations) if float(evaluations).is_integer() else round(evaluations, 3)

    mask = solution.score.mask
    record: dict[str, Any] = {
        "algo": cell.option("algo"),
        "k": len(mask.dropped),
        "ratio": mask.ratio,
        "stopped": solution.why,
        "evaluations_asked": count(solution.asked),
        "evaluations_paid": count(solution.paid),
        "evaluations_shared": count(solution.shared),
        "seconds": round(solution.seconds, 3),
        **asdict(cost),
    }
    if (spent := cell.removal.record(space, mask)) is not None:
        record["budget"] = spent
    return cast(SearchRecord, record)

"""Run one cell from start to end: search, evaluate, write the result."""

from __future__ import annotations

import math
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from pruning.core import scoring, storage
from pruning.core.errors import RankError, sentence
from pruning.core.mask import SearchRecord, Space
from pruning.core.records import (
    LOG,
    CalibrationRecord,
    DoneResult,
    FailedResult,
    ModelRecord,
    now,
    provenance,
)
from pruning.core.scoring import Estimate
from pruning.core.storage import appending, digest
from pruning.engine import collectives
from pruning.engine.compensation import Magnitude
from pruning.engine.dense_pass import magnitudes
from pruning.engine.forward import Cost
from pruning.evaluation.corpora import HIGHEST
from pruning.models.placement import ModelInfo
from pruning.objective import Calibrated
from pruning.runs.cell import (
    FORMAT,
    Cell,
    Note,
    Prepared,
    cell_lock,
    check_folder,
    save_config,
    save_mask,
    save_result,
    settings_record,
    silent,
)
from pruning.runs.heal_cell import healed_cell
from pruning.runs.loaded_cell import cell_space, forward_of, model_of
from pruning.runs.measurements import Progress, check_repair, digests, evaluate_mask, new_repair, reevaluate
from pruning.search.decide import FloatLoss
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, Store, claim


def run(prepared: Prepared) -> DoneResult:
    """Search, evaluate and record one cell. A cell that was stopped continues from its journal.

    Every failure is raised, and the study records it. Raises BusyError if another process runs the cell. Raises
    RankError if there are several ranks and one of them fails.
    """
    cell = prepared.cell
    with cell_lock(cell):
        done = collectives.on_first(cell.done)
        drawn = [prepared.samples.sha256, digests(prepared.data)]
        if collectives.broadcast(drawn) != drawn:  # for example, because of other versions of libraries
            raise RankError("ranks have drawn different samples: install the same packages on all nodes.")
        if done is None:
            with cell.tracker.live(cell) if collectives.is_first() else silent() as note:
                result = _run(prepared, note)
        else:
            result = reevaluate(prepared, done)
        result = healed_cell(prepared, result)
    if collectives.is_first():
        cell.tracker.finished(cell.folder)
    return result


def record_failure(cell: Cell, error: BaseException) -> FailedResult:
    """Write the result of a cell that failed. The next run of the same command runs the cell again.

    The traceback is appended to the cell's log. If an earlier run has finished the cell, the earlier result is kept,
    and the failure is only logged and returned.
    """
    check_folder(cell)
    log_path = cell.folder / LOG
    message = sentence(error) if isinstance(error, OSError) else str(error)
    cell.folder.mkdir(parents=True, exist_ok=True)
    if collectives.is_first():
        with appending(log_path) as stream:
            traceback.print_exception(error, file=stream)
    result: FailedResult = {
        "cell": cell.key,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": message, "log": str(log_path)},
        "config": dict(cell.config),
        "environment": provenance(now(), None),
    }
    if not cell.finished:
        save_result(cell, result)
    if collectives.is_first():
        cell.tracker.finished(cell.folder)
    return result


def _run(prepared: Prepared, note: Note) -> DoneResult:
    cell, samples, started = prepared.cell, prepared.samples, now()
    save_config(cell, cell.config)
    if collectives.is_first():
        samples.save(cell.results / "calibration")
    model = model_of(cell)
    forward = forward_of(cell, model)
    space = cell_space(cell, model)
    check_repair(prepared, forward, space.unit)
    key = score_key(prepared, model.info, space.unit)
    claim(
        cell.results, key, cell.key
    )  # raises ForeignError if its journal belongs to other samples or weights
    scales = None
    if isinstance(cell.compensation, Magnitude):
        scales = magnitudes(forward, samples.rows, space.unit)
    searched = forward.with_scales(scales if cell.compensation.search else None)
    losses = Calibrated(cell.objective, searched, samples)
    try:
        solution, cost, ledger = _search(cell, space, losses, key, note)
    finally:
        searched.release()
    mask = solution.score.mask
    save_mask(cell, mask)
    repair, repair_record = new_repair(prepared, forward, mask) or (None, None)
    result: DoneResult = {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": cast(ModelRecord, asdict(model.info)),
        "mask": mask.to_json(),
        "calibration": _calibration_record(prepared, solution, losses.whole.estimate),
        "search": _search_record(cell, space, solution, cost),
        "margins": solution.margins,
        "config": dict(cell.config),
        "evaluation": evaluate_mask(prepared, mask, forward, scales, repair),
        "environment": provenance(started, str(model.device)),
    }
    if scales is not None:
        result["compensation"] = {str(i): scales[i] for i in mask.dropped}
    if repair_record is not None:
        result["repair"] = repair_record
    save_result(cell, result)
    ledger.close()
    return result


def score_key(prepared: Prepared, info: ModelInfo, unit: str = "block") -> str:
    """A digest of everything that a loss depends on: format, model, revision, arithmetic, objective, exact samples.

    `unit` is what the masks are over, because journals number units.
    """
    cell = prepared.cell
    data: list[Any] = [FORMAT, cell.arithmetic(), info.revision]
    data += [settings_record(cell.objective), prepared.samples.sha256]
    data += [settings_record(cell.compensation)] if cell.compensation.search else []
    return digest([*data, unit] if unit != "block" else data)


def _search(
    cell: Cell, space: Space, losses: Calibrated, key: str, note: Note
) -> tuple[Solution, Cost, CostLedger]:
    """Run the search with a progress bar. Returns the solution, the cost, and the ledger, which is still open.

    Raises DamagedError if a line of a journal contradicts itself.
    """
    estimate = losses.whole.estimate

    def journal(name: str) -> Journal:
        opened = Journal.open(cell.folder / name, space.n_blocks, estimate, space.unit)
        if cell.share:
            opened.others = Store(cell.results, key, cell.key, space.n_blocks, space.unit, estimate, name)
        return opened

    own = journal(scoring.NAME)
    single = FloatLoss(losses.in_float32, journal(scoring.FLOAT32)) if losses.in_half else None
    problem = Problem(cell.algo, space, cell.seed, cell.racing, cell.near_ties, cell.max_evaluations)
    with Progress(cell.title, cell.evaluations(space), known=len(own.scores), unit=space.unit) as progress:
        ledger = CostLedger.open(cell.folder / "cost.json", losses.forward.cost)

        def watch(evaluations: int, best: float, size: int) -> None:
            progress.update(evaluations, best, size)
            note(evaluations, best)
            ledger.save()

        solution = solve(problem, losses, own, watch, single, journal(scoring.BOUNDS))
        return solution, ledger.total(), ledger


def _calibration_record(prepared: Prepared, solution: Solution, estimate: Estimate) -> CalibrationRecord:
    """The record of the samples and of the loss that was minimised on them."""
    samples, score, objective = prepared.samples, solution.score, prepared.cell.choices.objective
    record: CalibrationRecord = {
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
    """The record of the search and of its cost."""

    def count(evaluations: float) -> float:
        """A fraction if some masks were evaluated on a fraction of the samples."""
        return int(evaluations) if float(evaluations).is_integer() else round(evaluations, 3)

    mask = solution.score.mask
    record: SearchRecord = {
        "algo": cell.choices.algo,
        "k": len(mask.dropped),
        "ratio": mask.ratio,
        "stopped": solution.why,
        "evaluations_asked": count(solution.asked),
        "evaluations_paid": count(solution.paid),
        "evaluations_shared": count(solution.shared),
        "seconds": round(solution.seconds, 3),
    }
    if (spent := cell.removal.record(space, mask)) is not None:
        record["budget"] = spent
    return cast(SearchRecord, record | asdict(cost))


@dataclass
class CostLedger:
    """The `Cost` of the current run and of the cell's earlier runs. A file keeps their sum until the cell is done."""

    path: Path
    running: Cost
    earlier: Cost
    _saved: Cost

    @classmethod
    def open(cls, path: Path, running: Cost) -> CostLedger:
        """Read the cost of earlier runs from the file `path`, if it exists."""
        earlier = collectives.on_first(lambda: Cost(**storage.read_json(path)) if path.exists() else Cost())
        return cls(path, running, earlier, replace(running))

    def total(self) -> Cost:
        """The cost of all runs and ranks together."""
        return self.earlier.plus(self.running.over_ranks())

    def save(self) -> None:
        """Write the total if it has changed since the previous call."""
        spent = self.running.over_ranks()
        if spent != self._saved and collectives.is_first():
            storage.write_json(self.path, asdict(self.earlier.plus(spent)))
        self._saved = spent

    def close(self) -> None:
        """Delete the file, because the result now contains the cost."""
        if collectives.is_first():
            self.path.unlink(missing_ok=True)

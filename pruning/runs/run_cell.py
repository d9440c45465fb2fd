"""Run one cell from start to end: search, evaluate, write the result."""

from __future__ import annotations

from pathlib import Path

from pruning.core import trace
from pruning.core.errors import RankError
from pruning.core.estimate import Estimate
from pruning.core.hashing import digest
from pruning.core.provenance import now, provenance
from pruning.core.result import DoneResult, FailedResult
from pruning.core.space import Space
from pruning.distributed import collectives
from pruning.engine.cost import Cost
from pruning.models.spec import ModelInfo
from pruning.objective import Calibrated
from pruning.runs import result_record
from pruning.runs.cell import Cell
from pruning.runs.cell_files import save_config, save_mask, save_result
from pruning.runs.cell_identity import FORMAT, settings_record
from pruning.runs.cell_lock import cell_lock, check_folder
from pruning.runs.cell_model import forward_of, model_of
from pruning.runs.cell_repair import check_repair, new_repair
from pruning.runs.cell_space import cell_space
from pruning.runs.cost_ledger import CostLedger
from pruning.runs.evaluate_mask import evaluate_mask
from pruning.runs.heal_cell import healed_cell
from pruning.runs.measurements import digests
from pruning.runs.prepare import Prepared
from pruning.runs.progress import Progress
from pruning.runs.reevaluate import reevaluate
from pruning.runs.tracker import Note, silent
from pruning.search import budget
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, Store
from pruning.search.near_ties import FloatLoss


def run(prepared: Prepared) -> DoneResult:
    """Search, evaluate and record one cell. A cell that was stopped continues from its journal.

    Every failure is raised, and the study records it. Raises BusyError if another process runs the cell. Raises
    RankError if there are several ranks and one of them fails.
    """
    cell = prepared.cell
    with cell_lock(cell):
        done = collectives.on_first(cell.result)
        _check_samples(prepared)
        if done is None or done["status"] != "done":
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

    If an earlier run has finished the cell, the earlier result is kept, and the failure is only logged and returned.
    """
    check_folder(cell)
    result = result_record.failed_result(cell, error)
    if not cell.finished:
        save_result(cell, result)
    if collectives.is_first():
        cell.tracker.finished(cell.folder)
    return result


def score_key(prepared: Prepared, info: ModelInfo, unit: str = "block") -> str:
    """A digest of everything that a loss depends on: format, model, revision, arithmetic, objective, exact samples.

    `unit` is what the masks are over, because journals number units.
    """
    cell = prepared.cell
    data = [
        FORMAT,
        cell.arithmetic(),
        info.revision,
        settings_record(cell.objective),
        prepared.samples.sha256,
    ]
    data += [settings_record(cell.compensation)] if cell.compensation.search else []
    return digest([*data, unit] if unit != "block" else data)


def _run(prepared: Prepared, note: Note) -> DoneResult:
    cell, started = prepared.cell, now()
    save_config(cell, cell.config)
    if collectives.is_first():
        prepared.samples.save(cell.results / "calibration")
    model = model_of(cell)
    forward = forward_of(cell, model)
    space = cell_space(cell, model)
    check_repair(prepared, forward, space.unit)
    store = _store(prepared, model.info, space)
    scales = cell.compensation.scales(forward, prepared.samples.rows, space.unit)
    searched = forward.with_scales(scales if cell.compensation.search else None)
    losses = Calibrated(cell.objective, searched, prepared.samples)
    known = _known_scores(store, cell.folder, losses.whole.estimate)
    try:
        solution, cost, ledger = _search(cell, space, losses, known, note)
    finally:
        searched.release()
    mask = solution.score.mask
    save_mask(cell, mask)
    repair, repair_record = new_repair(prepared, forward, mask) or (None, None)
    result: DoneResult = {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": result_record.model_record(model.info),
        "mask": mask.to_json(),
        "calibration": result_record.calibration_record(
            prepared, solution, losses.whole.estimate.stated_error(solution.score.samples)
        ),
        "search": result_record.search_record(cell, space, solution, cost),
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


def _search(
    cell: Cell, space: Space, losses: Calibrated, known: KnownScores, note: Note
) -> tuple[Solution, Cost, CostLedger]:
    """Run the search with a progress bar. Returns the solution, the cost, and the ledger, which is still open."""
    most = budget.evaluations(cell.algo, space)
    with Progress(cell.title, most, known=len(known.journal.scores), unit=space.unit) as progress:
        ledger = CostLedger.open(cell.folder / "cost.json", losses.forward.cost)

        def watch(evaluations: int, best: float, size: int) -> None:
            progress.update(evaluations, best, size)
            note(evaluations, best)
            ledger.save()

        problem = Problem(cell.algo, space, cell.seed, cell.racing, cell.near_ties)
        single = None
        if losses.in_half:
            path, estimate = cell.folder / trace.FLOAT32, losses.whole.estimate
            single = FloatLoss(losses.in_float32, Journal.open(path, space.n_blocks, estimate, space.unit))
        solution = solve(problem, losses, known, watch, single)
        return solution, ledger.total(), ledger


def _store(prepared: Prepared, info: ModelInfo, space: Space) -> Store:
    """The scores of other cells. Raises ForeignError if the cell's journal belongs to other samples or weights."""
    cell, key = prepared.cell, score_key(prepared, info, space.unit)
    store = Store(cell.results, key, cell.key, space.n_blocks, cell.share, space.unit)
    store.claim()
    return store


def _known_scores(store: Store, folder: Path, estimate: Estimate) -> KnownScores:
    """The cell's journals and the store. Raises DamagedError if a line of a journal contradicts itself."""
    own, others = [], []
    for name in (trace.NAME, trace.BOUNDS):
        own.append(Journal.open(folder / name, store.n_blocks, estimate, store.unit))
        others.append(store.of(name, estimate))
    return KnownScores(own[0], others[0], own[1], others[1])


def _check_samples(prepared: Prepared) -> None:
    """Raise RankError if the samples of a rank differ from those of the first rank.

    This happens, for example, if the library versions differ.
    """
    drawn = [prepared.samples.sha256, digests(prepared.data)]
    if collectives.broadcast(drawn) != drawn:
        raise RankError("ranks have drawn different samples: install the same packages on all nodes.")

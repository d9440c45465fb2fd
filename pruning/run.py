"""One cell, end to end: check what can be checked, search, evaluate, write the result."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import subprocess
import traceback
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from filelock import FileLock, Timeout

from pruning import budget, files, mask, models
from pruning.calibration import Calibration
from pruning.calibration.samples import Samples
from pruning.calibration.sources import existing
from pruning.cell import FORMAT, Cell, described, digest
from pruning.errors import BusyError, InputError, PruningError
from pruning.estimate import Estimate
from pruning.evaluate import HIGHEST, Evaluator, Heldout, check_disjoint, digests
from pruning.ledger import Ledger
from pruning.mask import Space
from pruning.objective import Calibrated
from pruning.progress import Progress
from pruning.scores import Journal, Store
from pruning.solve import Solution, solve

if TYPE_CHECKING:
    from pruning.forward import Forward

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "hydra-core", "depth-pruning")


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is known to be good: its space and its samples. No weights are loaded for this."""

    cell: Cell
    space: Space
    samples: Samples
    data: Mapping[str, Samples]


def check(cell: Cell) -> None:
    """Raise InputError for what is wrong with a cell and can be seen without any data or model."""
    needs = cell.objective.needs
    if cell.calibration.kind not in (("text", "items") if needs == "any" else (needs,)):
        from pruning.config import calibrations

        fitting = ", ".join(calibrations(needs))
        raise InputError(
            f"objective={cell.choices.objective} needs {needs}, and calibration="
            f"{cell.choices.calibration} gives {cell.calibration.kind}. Calibrations that fit: {fitting}."
        )
    mask.check_size(cell.ratio, cell.k)
    budget.check(cell.algo)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


def prepare(cell: Cell) -> Prepared:
    """Draw the samples and check them against the model's shape, its tokenizer and the evaluation data.

    Raises InputError for bad input, UnreachableError where a model or data set cannot be had.
    """
    protect = cell.protect
    space = mask.space(models.n_blocks(cell.model), cell.ratio, cell.k, protect.first, protect.last)
    cell.algo.evaluations(space)  # raises where the search is out of reach
    samples = _draw(cast(Hashable, cell.calibration), cell.model)
    data = _heldout(cell.evaluation, cell.model)
    check_disjoint(samples, data)
    return Prepared(cell, space, samples, data)


@lru_cache(maxsize=16)
def _draw(calibration: Hashable, model: models.Model) -> Samples:
    """The samples of frozen settings, drawn once for all cells that share them."""
    return cast(Calibration, calibration).draw(models.tokenizer(model))


@lru_cache(maxsize=16)
def _heldout(evaluation: Heldout, model: models.Model) -> Mapping[str, Samples]:
    """The evaluation data, likewise."""
    return evaluation.data(models.tokenizer(model))


def run(prepared: Prepared) -> dict[str, Any]:
    """Search, evaluate and record one cell; a cell that was stopped goes on from its journal.

    Whatever fails is raised, for the study to record. Raises BusyError where another process has it.
    """
    cell = prepared.cell
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cell.folder / ".lock", timeout=0), _logged(cell.folder / "launch.log"):
            if (done := cell.result()) and done["status"] == "done" and not missing(prepared, done):
                return done
            return _run(prepared)
    except Timeout:
        raise BusyError(f"{cell.key} is being run by another process.") from None


def record_failure(cell: Cell, error: BaseException) -> dict[str, Any]:
    """Write the result of a cell that failed; the next run of the same command tries it again.

    What an earlier run had finished stays: then the failure is only logged and returned.
    """
    log_path = cell.folder / "launch.log"
    cell.folder.mkdir(parents=True, exist_ok=True)
    with log_path.open("a", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    result = {
        "cell": cell.key,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": str(error), "log": str(log_path)},
        "config": cell.config,
        "environment": environment(_now(), None),
    }
    if not _finished(cell):
        files.write_json(cell.folder / "result.json", result)
    return result


def _finished(cell: Cell) -> bool:
    try:
        return (cell.result() or {}).get("status") == "done"
    except PruningError:
        return True  # a file that is not this cell's is not overwritten either


def missing(prepared: Prepared, result: Mapping[str, Any]) -> bool:
    """Whether a finished cell lacks measurements that are asked for now."""
    recorded: dict[str, str] = result["evaluation"].get("data", {})
    return not digests(prepared.data).items() <= recorded.items()


def _run(prepared: Prepared) -> dict[str, Any]:
    from pruning.forward import Forward

    cell, started = prepared.cell, _now()
    files.write_text(cell.folder / "config.yaml", yaml.safe_dump(dict(cell.config), sort_keys=False))
    prepared.samples.save(cell.results / "calibration")
    model = models.load(cell.model)
    settings = cell.forward
    forward = Forward(model, settings.batch_tokens, settings.memory, settings.patience, settings.merge)
    key = score_key(prepared, model.info)
    store = Store(cell.results, key, cell.key, prepared.space.n_blocks, cell.share)
    store.claim()
    journal = Journal.open(cell.folder / "trace.jsonl", prepared.space.n_blocks)
    losses = Calibrated(cell.objective, forward, prepared.samples)
    scales = cell.compensation.scales(forward, prepared.samples.rows)
    forward.scales = scales if cell.compensation.search else None
    most = budget.evaluations(cell.algo, prepared.space)
    with Progress(cell, most, known=len(journal.scores)) as progress:
        ledger = Ledger.open(cell.folder / "cost.json", forward.cost)

        def watch(evaluations: int, best: float) -> None:
            progress.update(evaluations, best)
            ledger.save()

        solution = solve(cell.algo, prepared.space, losses, journal, store, cell.seed, watch, cell.racing)
        cost = ledger.total()
    files.write_json(cell.folder / "mask.json", solution.score.mask.to_json())
    result = _result(prepared, model.info, solution, losses.whole.estimate)
    result["evaluation"] = _evaluation(prepared, solution.score.mask, forward, scales)
    if scales is not None:
        result["compensation"] = {str(i): scales[i] for i in solution.score.mask.dropped}
    result["search"] |= asdict(cost)
    result["environment"] = environment(started, str(model.device))
    files.write_json(cell.folder / "result.json", result)
    ledger.close()
    return result


def _result(
    prepared: Prepared,
    info: models.ModelInfo,
    solution: Solution,
    estimate: Estimate,
) -> dict[str, Any]:
    cell, samples, score = prepared.cell, prepared.samples, solution.score
    return {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": asdict(info),
        "mask": score.mask.to_json(),
        "calibration": {
            "objective": cell.choices.objective,
            "source": samples.source,
            "samples": samples.count,
            "length": samples.length,
            "seed": samples.seed,
            "sha256": samples.sha256,
            "loss": score.loss,
            "dense_loss": solution.dense.loss,
            "standard_error": estimate.error(score.samples),
            **(
                {"perplexity": math.exp(min(score.loss, HIGHEST))}
                if cell.choices.objective == "perplexity"
                else {}
            ),
        },
        "search": {
            "algo": cell.choices.algo,
            "k": prepared.space.k,
            "ratio": score.mask.ratio,
            "stopped": solution.why,
            "evaluations_asked": _count(solution.asked),
            "evaluations_paid": _count(solution.paid),
            "evaluations_shared": _count(solution.shared),
            "seconds": round(solution.seconds, 3),
        },
        "margins": solution.margins,
        "config": cell.config,
    }


def _evaluation(
    prepared: Prepared, found: mask.Mask, forward: Forward, scales: tuple[float, ...] | None
) -> dict[str, Any]:
    """Measurements of the dense and of the pruned model and, where a mask is compensated, of it without."""
    info = forward.model.info

    def measured(chosen: mask.Mask, factors: tuple[float, ...] | None) -> dict[str, float]:
        forward.scales = factors
        own = None if factors is None else [factors[i] for i in chosen.dropped]
        folder = prepared.cell.results / "evaluation" / evaluation_key(prepared, info, own)
        return Evaluator(prepared.cell.evaluation, prepared.data, forward, folder)(chosen)

    evaluation: dict[str, Any] = {"dense": measured(prepared.space.dense, None)}
    evaluation["pruned"] = measured(found, scales)
    if scales is not None:
        evaluation["uncompensated"] = measured(found, None)
    return evaluation | {"data": digests(prepared.data)}


def _count(evaluations: float) -> float:
    """A number of losses; those over a part of the samples count as a part."""
    return int(evaluations) if float(evaluations).is_integer() else round(evaluations, 3)


def score_key(prepared: Prepared, info: models.ModelInfo) -> str:
    """What a loss belongs to: format, model and revision, precision, objective, and the exact samples."""
    cell = prepared.cell
    data = [FORMAT, cell.model.identity(), info.revision, described(cell.objective), prepared.samples.sha256]
    return digest([*data, described(cell.compensation)] if cell.compensation.search else data)


def evaluation_key(prepared: Prepared, info: models.ModelInfo, factors: list[float] | None = None) -> str:
    """What a measurement belongs to: format, model and revision, the exact evaluation data, compensating factors."""
    data = [FORMAT, prepared.cell.model.identity(), info.revision, digests(prepared.data)]
    return digest(data if factors is None else [*data, factors])


def environment(started: str, device: str | None) -> dict[str, Any]:
    """Versions, commit, device and times of a run."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    return {
        "packages": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "device": device,
        "cpus": os.cpu_count(),
        "started": started,
        "ended": _now(),
    }


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of the code, with a mark if it was changed since; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Add everything that is logged meanwhile to a cell's own file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()

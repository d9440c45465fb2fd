"""One cell, end to end: check what can be checked, search, evaluate, write the result."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pruning import budget, files, mask, models, ranks
from pruning.cell import FORMAT, Cell, described, digest
from pruning.environment import environment, now
from pruning.errors import InputError, PruningError, RankError
from pruning.estimate import Estimate
from pruning.evaluate import Evaluator, digests, mean_of, merged
from pruning.evaluation import digests_of
from pruning.evaluation.overlap import overlaps
from pruning.evaluation.text import HIGHEST
from pruning.held import held
from pruning.ledger import Ledger
from pruning.objective import Calibrated
from pruning.prepare import Prepared
from pruning.progress import Progress
from pruning.scores import Journal, Store
from pruning.solve import Solution, solve
from pruning.track import Note, silent

if TYPE_CHECKING:
    from pruning.forward import Forward

log = logging.getLogger(__name__)


def run(prepared: Prepared) -> dict[str, Any]:
    """Search, evaluate and record one cell; a cell that was stopped goes on from its journal.

    Whatever fails is raised, for the study to record. Raises BusyError where another process has it, RankError where
    one of several ranks fails.
    """
    cell = prepared.cell
    with held(cell):
        done = ranks.first(cell.result)
        _check_samples(prepared)
        if done is None or done["status"] != "done":
            with cell.tracker.live(cell) if ranks.is_first() else silent() as note:
                result = _run(prepared, note)
        else:
            result = _evaluated(prepared, done) if missing(prepared, done) else _named(prepared, done)
    if ranks.is_first():
        cell.tracker.finished(cell.folder)
    return result


def _check_samples(prepared: Prepared) -> None:
    """Raise RankError where a rank has drawn other samples than the first, as another library would."""
    own = [prepared.samples.sha256, digests(prepared.data)]
    if ranks.from_first(own) != own:
        raise RankError("ranks have drawn different samples: are the same packages installed on all nodes?")


def _put(path: Path, content: Any) -> None:
    """Write text, or JSON; of several ranks, the first one does."""
    if ranks.is_first():
        (files.write_text if isinstance(content, str) else files.write_json)(path, content)


def record_failure(cell: Cell, error: BaseException) -> dict[str, Any]:
    """Write the result of a cell that failed; the next run of the same command tries it again.

    What an earlier run had finished stays: then the failure is only logged and returned.
    """
    log_path = cell.folder / "launch.log"
    cell.folder.mkdir(parents=True, exist_ok=True)
    if ranks.is_first():
        with log_path.open("a", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
    result = {
        "cell": cell.key,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": str(error), "log": str(log_path)},
        "config": cell.config,
        "environment": environment(now(), None),
    }
    if not _finished(cell):
        _put(cell.folder / "result.json", result)
    if ranks.is_first():
        cell.tracker.finished(cell.folder)
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


def _evaluated(prepared: Prepared, done: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the mask of a finished cell and add the metrics to its result; nothing is searched again."""
    cell, started = prepared.cell, now()
    model = _loaded(cell)
    if model.info.revision != (recorded := done["model"]["revision"]):
        raise InputError(
            f"model {cell.model.name} is another one now (revision {model.info.revision}, not {recorded}): "
            f"a mask is evaluated on the model that it was found for; give model.revision={recorded}."
        )
    found = mask.Mask.from_json(done["mask"])
    factors = done.get("compensation")
    scales = factors and tuple(factors.get(str(block), 1.0) for block in range(found.n_blocks))
    new = _evaluation(prepared, found, _forward(cell, model), scales)
    new["environment"] = environment(started, str(model.device))
    return _named(prepared, {**done, "evaluation": merged(done["evaluation"], new)}, grown=True)


def _named(prepared: Prepared, done: Mapping[str, Any], grown: bool = False) -> dict[str, Any]:
    """The result under the evaluation that is asked for now; written if it has grown or was under another one."""
    cell = prepared.cell
    result = {**done, "config": {**done["config"], "eval": cell.config["eval"]}}
    if local := digests_of(cell.evaluation.files()):
        result["evaluation"] = merged(done["evaluation"], {"files": local})
    if cell.evaluation.averages and (mean := mean_of(done["evaluation"], prepared.data)):
        result["evaluation"] = merged(result["evaluation"], mean)
    if grown or result != done:
        _put(cell.folder / "config.yaml", yaml.safe_dump(result["config"], sort_keys=False))
        _put(cell.folder / "result.json", result)
    return result


def _loaded(cell: Cell) -> models.LanguageModel:
    from pruning.device import exact

    exact(cell.forward.tf32)
    return models.load(cell.model)


def _forward(cell: Cell, model: models.LanguageModel) -> Forward:
    from pruning.forward import Forward

    settings = cell.forward
    return Forward(model, settings.batch_tokens, settings.memory, settings.patience, settings.merge)


def _run(prepared: Prepared, note: Note) -> dict[str, Any]:
    cell, started = prepared.cell, now()
    _put(cell.folder / "config.yaml", yaml.safe_dump(dict(cell.config), sort_keys=False))
    if ranks.is_first():
        prepared.samples.save(cell.results / "calibration")
    model = _loaded(cell)
    forward = _forward(cell, model)
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
            note(evaluations, best)
            ledger.save()

        solution = solve(cell.algo, prepared.space, losses, journal, store, cell.seed, watch, cell.racing)
        cost = ledger.total()
    _put(cell.folder / "mask.json", solution.score.mask.to_json())
    result = _result(prepared, model.info, solution, losses.whole.estimate)
    result["evaluation"] = _evaluation(prepared, solution.score.mask, forward, scales)
    if scales is not None:
        result["compensation"] = {str(i): scales[i] for i in solution.score.mask.dropped}
    result["search"] |= asdict(cost)
    result["environment"] = environment(started, str(model.device))
    _put(cell.folder / "result.json", result)
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
    cell, info, data = prepared.cell, forward.model.info, prepared.data
    records: dict[str, dict[str, str]] = {name: {} for name in data}

    def measured(which: str, chosen: mask.Mask, factors: tuple[float, ...] | None) -> dict[str, Any]:
        forward.scales = factors
        own = None if factors is None else [factors[i] for i in chosen.dropped]
        keys = {name: evaluation_key(prepared, info, name, own) for name in data}
        folders = {name: cell.results / "evaluation" / key for name, key in keys.items()}
        evaluator = Evaluator(cell.evaluation, data, forward, folders)
        for name in data:
            records[name][which] = evaluator.path(name, chosen).relative_to(cell.results).as_posix()
        return evaluator(chosen)

    new: dict[str, Any] = {"dense": {}, "pruned": {}}
    if not cell.evaluation.compares:
        new["dense"] = measured("dense", prepared.space.dense, None)["metrics"]
    pruned = measured("pruned", found, scales)
    new |= pruned["metrics"] if cell.evaluation.compares else {"pruned": pruned["metrics"]}
    if scales is not None and not cell.evaluation.compares:
        new["uncompensated"] = measured("uncompensated", found, None)["metrics"]
    new |= {"data": digests(data), "how": pruned["how"], "records": records}
    new["settings"] = dict.fromkeys(data, cell.config["eval"])
    if local := digests_of(cell.evaluation.files()):
        new["files"] = local
    if shared := overlaps(prepared.samples, data):  # eval.allow_overlap insisted
        new["overlap"] = shared
    return new


def _count(evaluations: float) -> float:
    """A number of losses; those over a part of the samples count as a part."""
    return int(evaluations) if float(evaluations).is_integer() else round(evaluations, 3)


def score_key(prepared: Prepared, info: models.ModelInfo) -> str:
    """What a loss belongs to: format, model and revision, precision, objective, and the exact samples."""
    cell = prepared.cell
    data = [FORMAT, cell.weights(), info.revision, described(cell.objective), prepared.samples.sha256]
    return digest([*data, described(cell.compensation)] if cell.compensation.search else data)


def evaluation_key(
    prepared: Prepared, info: models.ModelInfo, metric: str, factors: list[float] | None = None
) -> str:
    """What a measurement belongs to: format, model and revision, the exact data of a metric, compensating factors."""
    data = [FORMAT, prepared.cell.weights(), info.revision, metric, prepared.data[metric].sha256]
    return f"{metric.replace('/', '-')}-{digest(data if factors is None else [*data, factors])}"

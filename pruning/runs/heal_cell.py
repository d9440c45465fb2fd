"""Heal the mask of a finished cell, and measure the healed model. Nothing is searched again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core.heal_record import FOLDER, HealRecord, RateTrial
from pruning.core.mask import Mask
from pruning.core.result import DoneResult, EvaluationRecord
from pruning.distributed import collectives
from pruning.healing.rate import warn_if_useless, with_rate
from pruning.models.spec import ModelInfo
from pruning.runs.cell_files import save_config, save_result
from pruning.runs.cell_model import forward_of
from pruning.runs.cell_repair import recorded_repair
from pruning.runs.evaluate_mask import dense_files, evaluation_key
from pruning.runs.heal_choice import Choice, choose
from pruning.runs.measurements import Evaluator
from pruning.runs.prepare import Prepared
from pruning.runs.reevaluate import recorded_model, recorded_scales
from pruning.runs.tracker import silent

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.healing.curve import Point
    from pruning.healing.settings import Training
    from pruning.healing.smaller import SmallerModel
    from pruning.healing.text import HealingText
    from pruning.models.loader import LanguageModel
    from pruning.models.repaired_weights import Repair
    from pruning.runs.cell import Cell
    from pruning.runs.tracker import Note

log = logging.getLogger(__name__)


def healed_cell(prepared: Prepared, done: DoneResult) -> DoneResult:
    """The result of a finished cell, extended by the healing that the cell asks for and by its evaluation.

    A healing that is in the cell's folder is not repeated, and one that was stopped continues. Raises LossError if a
    loss is not finite, InputError if the model has changed.
    """
    cell, text = prepared.cell, prepared.text
    if text is None:
        return done
    from pruning.healing.files import read_record

    settings, rates = _with_rate(cell, done, text)
    prepared = replace(prepared, cell=(cell := replace(cell, heal=settings)))
    choice = choose(cell, done, text)
    record = read_record(cell.folder / choice.place / cell.heal.key(text.sha256))
    if record is not None and _complete(prepared, done, _completed(record, choice, rates)):
        return done
    known = None if record is None else _evaluator(prepared, done, record)
    if record is None or known is None or not known.has(_whole(choice.mask)):
        smaller, record = _smaller(prepared, done, choice, record)
        known = _evaluator(prepared, done, record, forward_of(cell, smaller.model))
    result = _extended(prepared, done, _completed(record, choice, rates), known, _whole(choice.mask))
    save_config(cell, result["config"])
    save_result(cell, result)
    return result


def _with_rate(cell: Cell, done: DoneResult, text: HealingText) -> tuple[Training, list[RateTrial]]:
    """The settings of the healing with a learning rate, and the trials that chose it, on the search's mask."""

    def curve(trial: Training, place: Path | None) -> list[Point]:
        from pruning.healing.heal import heal

        model, mask = recorded_model(cell, done), Mask.from_json(done["mask"])
        repair = recorded_repair(cell, done)
        return heal(model, mask, text, trial, place, recorded_scales(done), repair=repair).curve

    return with_rate(cell.heal, text, cell.folder / FOLDER, curve)


def _completed(record: HealRecord, choice: Choice, rates: list[RateTrial]) -> HealRecord:
    """A record of a healing with how its mask and its learning rate were chosen, if they were."""
    found = record if choice.selection is None else {**record, "selection": choice.selection}
    return {**found, "rates": rates} if rates else found


def _complete(prepared: Prepared, done: DoneResult, record: HealRecord) -> bool:
    """Whether a result has this healing, with all metrics that are now requested."""
    measured = done["evaluation"].get("records", {})
    same = done.get("heal") == record and done["config"].get("heal") == prepared.cell.config.get("heal")
    whole = prepared.cell.evaluation.compares or all("healed" in measured.get(m, {}) for m in prepared.data)
    return same and whole


def _smaller(
    prepared: Prepared, done: DoneResult, choice: Choice, record: HealRecord | None
) -> tuple[SmallerModel, HealRecord]:
    """The healed model: trained now, or made of the weights in the folder of a finished healing."""
    from pruning.healing.files import read_weights
    from pruning.healing.smaller import smaller_model

    cell = prepared.cell
    model, scales = recorded_model(cell, done), recorded_scales(done)
    repair = recorded_repair(cell, done)
    if record is None:
        return _trained(prepared, model, choice, scales, repair)
    smaller = smaller_model(model, choice.mask, scales, repair)
    smaller.apply(read_weights(cell.folder / record["folder"], record))
    return smaller, record


def _trained(
    prepared: Prepared,
    model: LanguageModel,
    choice: Choice,
    scales: tuple[float, ...] | None,
    repair: Repair | None,
) -> tuple[SmallerModel, HealRecord]:
    from pruning.healing.files import write_healed
    from pruning.healing.heal import heal

    cell, text = prepared.cell, prepared.text
    assert text is not None
    folder, settings = cell.folder / choice.place, replace(cell.heal, candidates=1)
    log.info("healing %s on %d tokens of %s", choice.mask, settings.tokens, text.source)
    with cell.tracker.live(cell) if collectives.is_first() else silent() as note:
        healed = heal(model, choice.mask, text, settings, folder, scales, _watch(note), repair)
    place = folder / settings.key(text.sha256)
    record = write_healed(place, healed, text, settings, choice.place, cell.config["eval"])
    curve = record["curve"]
    log.info(
        "healed on %d tokens in %.0f s: held-out loss %.4f -> %.4f",
        *(record["tokens"], record["seconds"], curve["heldout_before"], curve["heldout_after"]),
    )
    warn_if_useless(record["best_step"], settings)
    return healed.smaller, record


def _watch(note: Note) -> Any:
    """A function that shows a point of the curve in the log and sends it to the tracker."""

    def watch(point: Point) -> None:
        for name in ("loss", "heldout_loss"):
            if name in point:
                note(point["tokens"], cast(dict[str, Any], point)[name], f"heal/{name}")
        if "heldout_loss" in point:
            log.info(
                "step %d, %d tokens, %.0f s: loss %s, held-out loss %.4f",
                *(point["step"], point["tokens"], point["seconds"]),
                *(f"{point['loss']:.4f}" if "loss" in point else "-", point["heldout_loss"]),
            )

    return watch


def _extended(
    prepared: Prepared, done: DoneResult, record: HealRecord, measure: Evaluator, whole: Mask
) -> DoneResult:
    """The result with the healing and the metrics of the healed model, which replace those of other weights."""
    from pruning.healing.files import write_evaluation

    evaluation: dict[str, Any] = dict(done["evaluation"])
    kept = evaluation.get("records", {})
    if done.get("heal", {}).get("weights_sha256") != record["weights_sha256"]:
        evaluation.pop("healed", None)
        kept = {m: {which: p for which, p in paths.items() if which != "healed"} for m, paths in kept.items()}
    cell = prepared.cell
    if not cell.evaluation.compares:
        paths = {
            name: measure.path(name, whole).relative_to(cell.results).as_posix() for name in prepared.data
        }
        measured = measure(whole).metrics
        evaluation["healed"] = {**evaluation.get("healed", {}), **measured}
        write_evaluation(cell.folder / record["folder"], measured, paths)
        kept = {
            metric: one | ({"healed": paths[metric]} if metric in paths else {})
            for metric, one in kept.items()
        }
    elif not evaluation.get("healed"):
        log.warning(
            "the healed model is not measured by this evaluation: run it again, such as with eval=heldout"
        )
    evaluation["records"] = kept
    config = {**done["config"], "heal": cell.config["heal"]}
    return {**done, "heal": record, "evaluation": cast(EvaluationRecord, evaluation), "config": config}


def _whole(mask: Mask) -> Mask:
    """The mask over the blocks of the healed model that removes nothing."""
    return Mask(mask.n_blocks - len(mask.gone))


def _evaluator(
    prepared: Prepared, done: DoneResult, record: HealRecord, forward: Forward | None = None
) -> Evaluator:
    """What measures the healed model. Without `forward`, it can only read measurements that are there."""
    cell, info = prepared.cell, ModelInfo(**done["model"])
    folders = {
        name: cell.results
        / "evaluation"
        / f"{evaluation_key(prepared, info, name)}-healed-{record['weights_sha256'][:16]}"
        for name in prepared.data
    }
    dense = dense_files(prepared, info)
    return Evaluator(cell.evaluation, prepared.data, cast(Any, forward), folders, "the healed model", dense)

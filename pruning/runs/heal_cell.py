"""Heal the mask of a finished cell, and measure the healed model. Nothing is searched again."""

from __future__ import annotations

import logging
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core.mask import Mask
from pruning.core.records import FOLDER, DoneResult, HealRecord, Point
from pruning.core.units import duration_text
from pruning.engine import collectives
from pruning.healing import loop
from pruning.healing.heal_settings import Training
from pruning.healing.healed_files import read_record, read_weights, write_evaluation, write_healed
from pruning.healing.rate import warn_if_useless, with_rate
from pruning.models.model import ModelInfo
from pruning.runs.cell import Note, Prepared, save_config, save_result, silent
from pruning.runs.loaded_cell import forward_of
from pruning.runs.measurements import (
    Evaluator,
    Scales,
    dense_files,
    evaluation_key,
    recorded_model,
    recorded_repair,
    recorded_scales,
)

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.model import LanguageModel
    from pruning.models.output_maps import Repair


log = logging.getLogger(__name__)


def healed_cell(prepared: Prepared, done: DoneResult) -> DoneResult:
    """The result of a finished cell, extended by the healing that the cell asks for and by its evaluation.

    A healing that is in the cell's folder is not repeated, and one that was stopped continues. Raises LossError if a
    loss is not finite, InputError if the model has changed.
    """
    cell, text = prepared.cell, prepared.text
    if text is None:
        return done
    mask, home = Mask.from_json(done["mask"]), cell.folder / FOLDER
    whole = Mask(mask.n_blocks - len(mask.gone))

    @cache
    def origin() -> tuple[LanguageModel, Scales, Repair | None]:
        """The dense model and what is done to it before training; InputError if it is not the one searched."""
        return recorded_model(cell, done), recorded_scales(done), recorded_repair(cell, done)

    def healed(how: Training, place: Path, watch: loop.Watch = lambda _: None) -> loop.Healed:
        model, scales, repair = origin()
        return loop.heal(model, mask, text, how, place, scales, watch, repair)

    settings, rates = with_rate(
        cell.heal, text, home, lambda trial, place: healed(trial, place or home).curve
    )
    folder = home / settings.key(text.sha256)

    def completed(record: HealRecord) -> HealRecord:
        return {**record, "rates": rates} if rates else record

    record = read_record(folder)
    if record is not None and done.get("heal") == completed(record):
        measured = done["evaluation"].get("records", {})
        every = cell.evaluation.compares or all("healed" in measured.get(m, {}) for m in prepared.data)
        if every and done["config"].get("heal") == cell.config.get("heal"):
            return done
    measure = None if record is None else _evaluator(prepared, done, record)
    if record is None or measure is None or not measure.has(whole):
        if record is None:
            log.info("healing %s on %d tokens of %s", mask, settings.tokens, text.source)
            with cell.tracker.live(cell) if collectives.is_first() else silent() as note:
                trained = healed(settings, home, partial(_watch, note, settings))
            record = write_healed(folder, trained, text, settings, cell.config["eval"])
            log.info(
                "healed on %d tokens in %.0f s: held-out loss %.4f -> %.4f",
                *(record["tokens"], record["seconds"]),
                *(record["curve"]["heldout_before"], record["curve"]["heldout_after"]),
            )
            warn_if_useless(record["best_step"], settings)
            smaller = trained.smaller
        else:
            model, scales, repair = origin()
            smaller = loop.smaller_model(model, mask, scales, repair)
            smaller.apply(read_weights(folder, record))
        measure = _evaluator(prepared, done, record, forward_of(cell, smaller.model))
    result = _extended(prepared, done, completed(record), measure, whole)
    save_config(cell, result["config"])
    save_result(cell, result)
    return result


def _watch(note: Note, settings: Training, point: Point) -> None:
    """Show a point of the curve in the log with the time that is left, and send it to the tracker."""
    for name in ("loss", "heldout_loss"):
        if name in point:
            note(point["tokens"], cast(dict[str, Any], point)[name], f"heal/{name}")
    if "heldout_loss" in point:
        step, seconds = point["step"], point["seconds"]
        left = duration_text(seconds / step * (settings.steps - step)) if 0 < step < settings.steps else "-"
        log.info(
            "step %d of %d, %d tokens, %.0f s, left %s: loss %s, held-out loss %.4f",
            *(step, settings.steps, point["tokens"], seconds, left),
            *(f"{point['loss']:.4f}" if "loss" in point else "-", point["heldout_loss"]),
        )


def _evaluator(
    prepared: Prepared, done: DoneResult, record: HealRecord, forward: Forward | None = None
) -> Evaluator:
    """What measures the healed model. Without `forward`, it can only read measurements that are there."""
    cell, info = prepared.cell, ModelInfo(**done["model"])
    ending = f"healed-{record['weights_sha256'][:16]}"
    folders = {
        name: cell.results / "evaluation" / f"{evaluation_key(prepared, info, name)}-{ending}"
        for name in prepared.data
    }
    dense = dense_files(prepared, info)
    return Evaluator(cell.evaluation, prepared.data, cast(Any, forward), folders, "the healed model", dense)


def _extended(
    prepared: Prepared, done: DoneResult, record: HealRecord, measure: Evaluator, whole: Mask
) -> DoneResult:
    """The result with the healing and the metrics of the healed model, which replace those of other weights."""
    cell, evaluation = prepared.cell, dict[str, Any](done["evaluation"])
    kept = evaluation.get("records", {})
    if done.get("heal", {}).get("weights_sha256") != record["weights_sha256"]:
        evaluation.pop("healed", None)
        kept = {m: {which: p for which, p in paths.items() if which != "healed"} for m, paths in kept.items()}
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
    return {**done, "heal": record, "evaluation": cast(Any, evaluation), "config": config}

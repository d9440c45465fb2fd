"""Heal the mask of a finished cell, and measure the healed model. Nothing is searched again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core import scoring, storage
from pruning.core.errors import InputError
from pruning.core.mask import Mask, is_complete
from pruning.core.records import (
    FOLDER,
    RECORD,
    DoneResult,
    EvaluationRecord,
    HealRecord,
    RateTrial,
    SelectionRecord,
)
from pruning.core.storage import digest, text_sha256
from pruning.engine import collectives
from pruning.healing.heal_settings import Selection, Training, Trial, halve
from pruning.healing.rate import warn_if_useless, with_rate
from pruning.healing.training import schedule_of
from pruning.models.model import ModelInfo
from pruning.runs.cell import Cell, save_config, save_result, silent
from pruning.runs.loaded_cell import forward_of
from pruning.runs.measurements import (
    Evaluator,
    dense_files,
    evaluation_key,
    recorded_model,
    recorded_repair,
    recorded_scales,
)
from pruning.runs.prepare import Prepared

if TYPE_CHECKING:
    from pruning.core.records import Point
    from pruning.engine.forward import Forward
    from pruning.healing.loop import SmallerModel
    from pruning.healing.training_text import HealingText
    from pruning.models.model import LanguageModel
    from pruning.models.output_maps import Repair
    from pruning.runs.cell import Note


log = logging.getLogger(__name__)


def healed_cell(prepared: Prepared, done: DoneResult) -> DoneResult:
    """The result of a finished cell, extended by the healing that the cell asks for and by its evaluation.

    A healing that is in the cell's folder is not repeated, and one that was stopped continues. Raises LossError if a
    loss is not finite, InputError if the model has changed.
    """
    cell, text = prepared.cell, prepared.text
    if text is None:
        return done
    from pruning.healing.healed_files import read_record

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
        from pruning.healing.loop import heal

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
    from pruning.healing.healed_files import read_weights
    from pruning.healing.loop import smaller_model

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
    from pruning.healing.healed_files import write_healed
    from pruning.healing.loop import heal

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
    from pruning.healing.healed_files import write_evaluation

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


# Which mask of a finished cell is healed: the one that the search chose, or the candidate that heals best.
#
# With `heal.candidates=8`, the eight best complete masks that the search scored are healed in rounds of successive
# halving (`pruning/healing/heal_settings.py`, `pruning/runs/heal_cell.py`).


@dataclass(frozen=True)
class Choice:
    """The mask to heal, and the folder of its healings, as a path in the cell's folder."""

    mask: Mask
    place: str
    selection: SelectionRecord | None = None


def choose(cell: Cell, done: DoneResult, text: HealingText) -> Choice:
    """The mask to heal. With candidates, they are healed now, unless the cell's folder holds their trials.

    Raises InputError if the search scored no other complete mask, and LossError as `heal` does.
    """
    own = Mask.from_json(done["mask"])
    if cell.heal.candidates == 1:
        return Choice(own, FOLDER)
    losses = candidates(cell, done)
    trials, masks = Trials(cell, done, text, own), list(losses)
    selection = halve(masks, cell.heal.round_tokens, trials.trial, lambda left: trials.clear(masks, left))
    record = _record(selection, own, list(losses.values()))
    log.info(
        "%s heals best of %d candidates, which %s the search's choice: %d tokens, %.0f s",
        *(selection.winner.described(), len(masks), "changes" if record["changed"] else "is"),
        *(record["tokens"], record["seconds"]),
    )
    return Choice(selection.winner, place_of(selection.winner, own), record)


def candidates(cell: Cell, done: DoneResult) -> dict[Mask, float]:
    """The search's mask and the best other complete masks that it scored, with their losses.

    Raises InputError if there is no other one.
    """
    own, budget = Mask.from_json(done["mask"]), done["search"].get("budget")
    entries = collectives.on_first(lambda: list(scoring.read_trace(cell.folder / scoring.NAME)))
    scored = {
        replace(own, dropped=tuple(line["dropped"])): line["loss"]
        for entry in entries
        if (line := entry.line) is not None
        and "of" not in line
        and is_complete(line["dropped"], done["search"]["k"], budget)
    }
    best = sorted((mask for mask in scored if mask != own), key=lambda mask: (scored[mask], mask.dropped))
    if not best:
        raise InputError(
            f"heal.candidates={cell.heal.candidates} needs several masks to choose from, and algo="
            f"{done['search']['algo']} scored no other complete mask in cell {cell.key}: choose a search that does, "
            "such as greedy or beam, or heal.candidates=1."
        )
    if len(best) + 1 < cell.heal.candidates:
        log.warning(
            "the search scored only %d complete masks, so there are no more candidates", len(best) + 1
        )
    kept = [own, *best[: cell.heal.candidates - 1]]
    return {mask: scored.get(mask, done["calibration"]["loss"]) for mask in kept}


def _record(selection: Selection, own: Mask, losses: list[float]) -> SelectionRecord:
    def one(trial: Trial) -> Any:
        return {"dropped": trial.mask.listed()} | {k: v for k, v in trial._asdict().items() if k != "mask"}

    return {
        "mask": dict(selection.winner.to_json()),
        "changed": selection.winner != own,
        "losses": losses,
        "rounds": [[one(trial) for trial in trials] for trials in selection.rounds],
        "tokens": sum(trial.trained for trial in selection.trials),
        "seconds": round(sum(trial.seconds for trial in selection.trials), 3),
    }


# The short healings of candidates: each is one line of `healed/trials-KEY.jsonl`.
#
# A selection that was stopped continues from this file. A trial is an ordinary healing with a small budget, so a
# trial begins where the same mask's trial of the round before began to lower its rate.


def place_of(mask: Mask, own: Mask) -> str:
    """The folder of a mask's healings: `healed` for the search's mask, and one of its own for any other."""
    return FOLDER if mask == own else f"{FOLDER}/mask-{text_sha256(json.dumps(mask.to_json()))[:16]}"


@dataclass(frozen=True)
class Trials:
    """The trials of a cell, kept in one file."""

    cell: Cell
    done: DoneResult
    text: HealingText
    own: Mask

    @property
    def path(self) -> Path:
        """The file of the trials. Its name depends on all that a trial depends on, but not on how many there are."""
        heal: Training = self.cell.heal
        named = digest({**heal.identity(), "tokens": None, "text": self.text.beginning})
        return self.cell.folder / FOLDER / f"trials-{named}.jsonl"

    @cached_property
    def known(self) -> dict[tuple[tuple[int, ...], int], Trial]:
        """The trials of earlier runs, by removed units and tokens."""
        return collectives.on_first(self._read)

    def trial(self, mask: Mask, tokens: int, before: int) -> Trial:
        """Heal a mask on `tokens` tokens, continuing from the round that had `before`; or read what that gave."""
        return self.known.get((mask.dropped, tokens)) or self._heal(mask, tokens, before)

    def clear(self, masks: Sequence[Mask], left: Sequence[Mask]) -> None:
        """Remove the states of the candidates that are out; those of the search's mask serve other budgets."""
        for mask in {*masks} - {*left, self.own}:
            folder = self.cell.folder / place_of(mask, self.own)
            collectives.on_first(partial(_remove_states, folder))

    @cached_property
    def _model(self) -> LanguageModel:
        return recorded_model(self.cell, self.done)

    def _heal(self, mask: Mask, tokens: int, before: int) -> Trial:
        from pruning.healing.loop import heal

        settings = replace(self.cell.heal, tokens=tokens, candidates=1)
        home = self.cell.folder / place_of(mask, self.own)
        log.info("candidate %s: healing it on %d tokens", mask.described(), tokens)
        healed = heal(self._model, mask, self.text, settings, home)
        last = healed.curve[-1]
        first = healed.curve[min(_shared(settings, before), last["step"])]  # it may have stopped early
        loss, seconds = healed.summary()["heldout_after"], last["seconds"] - first["seconds"]
        found = Trial(mask, tokens, loss, last["tokens"] - first["tokens"], round(seconds, 3))
        log.info("candidate %s: held-out loss %.4f", mask.described(), loss)
        collectives.on_first(lambda: self._write(found, home / settings.key(self.text.sha256)))
        return found

    def _write(self, found: Trial, folder: Path) -> None:
        """Keep a trial, and remove the state at its end, which no later round needs."""
        from pruning.healing.loop import CHECKPOINTS

        line = found._asdict() | {"mask": found.mask.to_json()}
        storage.append_line(self.path, line)
        finished = (folder / RECORD).exists()
        shutil.rmtree(folder / CHECKPOINTS if finished else folder, ignore_errors=True)

    def _read(self) -> dict[tuple[tuple[int, ...], int], Trial]:
        if not self.path.exists():
            return {}
        storage.mend(self.path)
        lines = [json.loads(line) for _, line in storage.read_lines(self.path)]
        trials = [Trial(**{**line, "mask": Mask.from_json(line["mask"])}) for line in lines]
        return {(trial.mask.dropped, trial.tokens): trial for trial in trials}


def _remove_states(folder: Path) -> None:
    """Remove a candidate's states, and its folder if it holds no finished healing."""
    for trunk in folder.glob("trunk-*"):
        shutil.rmtree(trunk, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _shared(settings: Training, before: int) -> int:
    """The step at which a trial continues from the trial of the round before."""
    earlier = replace(settings, tokens=before)
    if not before or settings.schedule != "wsd":
        return 0
    return schedule_of(settings.schedule, earlier.steps, settings.warmup, settings.decay).stable

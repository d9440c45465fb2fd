"""Heal the mask of a finished cell, and measure the healed model. Nothing is searched again.

With `heal.candidates=8`, eight masks are healed in rounds of successive halving: the search's mask and the seven best
other complete masks that the search scored. All are trained for a short time, then the better half for twice as long,
and so on. The mask that heals best is then trained with the full budget.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pruning.core import scoring, storage
from pruning.core.errors import InputError
from pruning.core.mask import Mask, is_complete
from pruning.core.records import FOLDER, RECORD, DoneResult, HealRecord, Point, SelectionRecord
from pruning.core.storage import digest, text_sha256
from pruning.core.units import duration_text
from pruning.engine import collectives
from pruning.evaluation import SPEED
from pruning.healing import loop
from pruning.healing.heal_settings import Training, budgets
from pruning.healing.loop import read_record, read_weights, write_evaluation, write_healed
from pruning.healing.rate import warn_if_useless, with_rate
from pruning.models.placement import ModelInfo
from pruning.runs import measurements
from pruning.runs.cell import Cell, Prepared, forward_of, save_config, save_result
from pruning.runs.measurements import Evaluator, mask_evaluator

if TYPE_CHECKING:
    from pruning.healing.training_text import HealingText
    from pruning.models.placement import LanguageModel


log = logging.getLogger(__name__)


def healed_cell(prepared: Prepared, done: DoneResult) -> DoneResult:
    """The result of a finished cell, extended by the record of the healing and by the healed model's metrics.

    Finished training is not repeated if its weights are in the cell's folder; stopped training continues. Raises
    LossError if a loss is not finite, and InputError if the model has changed or there are no other candidates.
    """
    cell, text = prepared.cell, prepared.text
    if text is None:
        return done
    found = Finished(cell, done, text)
    own = Mask.from_json(done["mask"])
    settings, rates = with_rate(
        cell.heal, text, cell.folder / FOLDER, lambda trial, place: found.heal(own, trial, place).curve
    )
    mask, selection = (own, None) if settings.candidates == 1 else select(found, settings)
    place = found.place(mask)
    folder, whole = cell.folder / place / settings.key(text.sha256), Mask(mask.n_blocks - len(mask.gone))
    record, info, smaller = read_record(folder), ModelInfo(**done["model"]), None
    if record is None:
        log.info("healing %s on %d tokens of %s", mask, settings.tokens, text.source)
        healed = found.heal(mask, settings, cell.folder / place, partial(_watch, settings))
        smaller = healed.smaller
        record = write_healed(folder, healed, text, settings, place, cell.config["eval"])
        log.info(
            "healed on %d tokens in %.0f s: held-out loss %.4f -> %.4f",
            *(record["tokens"], record["seconds"]),
            *(record["curve"]["heldout_before"], record["curve"]["heldout_after"]),
        )
        warn_if_useless(record["best_step"], settings)
    measure = mask_evaluator(prepared, info, whole, None, healed=record)
    if not (SPEED in prepared.data or measure.has(whole)):
        if smaller is None:
            repair = measurements.recorded_repair(cell, done)
            smaller = loop.smaller_model(found.model, mask, repair)
            smaller.apply(read_weights(folder, record))
        forward = forward_of(smaller.model)
        measure = mask_evaluator(prepared, info, whole, forward, healed=record)
    record = record if selection is None else {**record, "selection": selection}
    record = {**record, "rates": rates} if rates else record
    result = _extended(prepared, done, record, measure, whole)
    if result != done:
        save_config(cell, result["config"])
        save_result(cell, result)
    return result


@dataclass(frozen=True)
class Finished:
    """A finished cell, and the text on which its masks are healed."""

    cell: Cell
    done: DoneResult
    text: HealingText

    @property
    def own(self) -> Mask:
        """The mask that the search chose."""
        return Mask.from_json(self.done["mask"])

    @cached_property
    def model(self) -> LanguageModel:
        """The dense model. Raises InputError if it differs from the model that was searched."""
        return measurements.recorded_model(self.cell, self.done)

    def place(self, mask: Mask) -> str:
        """The folder for a mask's training runs: `healed` for the search's mask, else a subfolder of `healed`."""
        named = text_sha256(json.dumps(mask.to_json()))[:16]
        return FOLDER if mask == self.own else f"{FOLDER}/mask-{named}"

    def heal(
        self,
        mask: Mask,
        settings: Training,
        folder: Path | None,
        watch: Callable[[Point], None] = lambda _: None,
    ) -> loop.Healed:
        """Heal a mask; the cell's repair, if any, is applied first. Cells with several candidates have no repair."""
        repair = measurements.recorded_repair(self.cell, self.done)
        return loop.heal(self.model, mask, self.text, settings, folder, watch, repair)


def _watch(settings: Training, point: Point) -> None:
    """Log a point of the training curve if it has a held-out loss, with the estimated time left."""
    if "heldout_loss" in point:
        step, seconds = point["step"], point["seconds"]
        left = duration_text(seconds / step * (settings.steps - step)) if 0 < step < settings.steps else "-"
        log.info(
            "step %d of %d, %d tokens, %.0f s, left %s: loss %s, held-out loss %.4f",
            *(step, settings.steps, point["tokens"], seconds, left),
            *(f"{point['loss']:.4f}" if "loss" in point else "-", point["heldout_loss"]),
        )


def _extended(
    prepared: Prepared, done: DoneResult, record: HealRecord, measure: Evaluator, whole: Mask
) -> DoneResult:
    """The result with the healed model's record and metrics. Metrics of earlier healed weights are removed."""
    cell, evaluation = prepared.cell, dict[str, Any](done["evaluation"])
    if done.get("heal", {}).get("weights_sha256") != record["weights_sha256"]:
        evaluation = measurements.without_healed(evaluation)
    if SPEED not in prepared.data:
        paths = {
            name: measure.path(name, whole).relative_to(cell.command.results).as_posix()
            for name in prepared.data
        }
        measured = measure(whole).metrics
        evaluation["healed"] = {**evaluation.get("healed", {}), **measured}
        write_evaluation(cell.folder / record["folder"], measured, paths)
        evaluation["records"] = {
            metric: one | ({"healed": paths[metric]} if metric in paths else {})
            for metric, one in evaluation.get("records", {}).items()
        }
    elif not evaluation.get("healed"):
        log.warning(
            "the healed model is not measured by this evaluation: run it again, such as with eval=heldout"
        )
    config = {**done["config"], "heal": cell.config["heal"]}
    return {**done, "heal": record, "evaluation": cast(Any, evaluation), "config": config}


# Select one of several candidate masks by their losses on held-out text after training.
#
# A trial is ordinary training with a small budget. It continues the same mask's trial of the previous round
# from the step at which that trial began to lower its learning rate. Each trial is one line of
# `healed/trials-KEY.jsonl`; a selection that was stopped continues from this file.


class Trial(NamedTuple):
    """The outcome of training one mask in one round.

    `heldout_loss` is the mask's held-out loss in nats per token after `tokens` tokens. This round trained on
    `trained` of these tokens in `seconds` seconds; earlier rounds trained on the others.
    """

    mask: Mask
    tokens: int
    heldout_loss: float
    trained: int
    seconds: float


def select(found: Finished, settings: Training) -> tuple[Mask, SelectionRecord]:
    """The candidate that heals best, and the record of all trials. Trials in the cell's folder are not repeated."""
    losses = candidates(found, settings.candidates)
    # A digest of all that a trial depends on, except its number of tokens, which is in its line.
    named = digest({**settings.identity(), "tokens": None, "text": found.text.beginning})
    path = found.cell.folder / FOLDER / f"trials-{named}.jsonl"

    def read() -> dict[tuple[tuple[int, ...], int], Trial]:
        if not path.exists():
            return {}
        storage.mend(path)
        lines = [json.loads(line) for _, line in storage.read_lines(path)]
        trials = [Trial(**{**line, "mask": Mask.from_json(line["mask"])}) for line in lines]
        return {(one.mask.dropped, one.tokens): one for one in trials}

    def clear(left: Sequence[Mask]) -> None:
        """Remove the training states of eliminated masks; those of the search's mask are kept for other budgets."""
        for mask in {*losses} - {*left, found.own}:
            folder = found.cell.folder / found.place(mask)
            for trunk in folder.glob("trunk-*"):
                shutil.rmtree(trunk, ignore_errors=True)
            if folder.is_dir() and not any(folder.iterdir()):  # no finished training run is left in it
                folder.rmdir()

    def recorded(trial: Trial) -> Any:
        named = trial._asdict()
        return {"dropped": named.pop("mask").listed(), **named}

    known = collectives.on_first(read)

    def trial(mask: Mask, tokens: int, before: int) -> Trial:
        if (kept := known.get((mask.dropped, tokens))) is not None:
            return kept
        return _tried(found, replace(settings, tokens=tokens), mask, before, path)

    rounds: list[list[Trial]] = []
    left = list(losses)
    for trials, left in halve(list(losses), settings.round_tokens, trial):
        rounds.append(trials)
        collectives.on_first(partial(clear, left))
    (winner,) = left
    record: SelectionRecord = {
        "mask": dict(winner.to_json()),
        "changed": winner != found.own,
        "losses": list(losses.values()),
        "rounds": [[recorded(one) for one in trials] for trials in rounds],
        "tokens": sum(one.trained for trials in rounds for one in trials),
        "seconds": round(sum(one.seconds for trials in rounds for one in trials), 3),
    }
    log.info(
        "%s heals best of %d candidates, which %s the search's choice: %d tokens, %.0f s",
        *(winner.described(), len(losses), "changes" if record["changed"] else "is"),
        *(record["tokens"], record["seconds"]),
    )
    return winner, record


def halve(
    masks: Sequence[Mask], tokens: int, trial: Callable[[Mask, int, int], Trial]
) -> Iterator[tuple[list[Trial], list[Mask]]]:
    """Yield the trials of each round of successive halving, and the masks that are left, best first.

    `trial(mask, tokens, before)` heals a mask on `tokens` tokens; `before` is the budget of the previous round (0 in
    the first round). Masks with equal losses keep their order. This is algorithm 1 of Jamieson
    and Talwalkar (arXiv 1502.07943). DarwinLM (arXiv 2502.07780, section 3.2) selects pruned models this way.
    """
    left, before = list(masks), 0
    for budget in budgets(len(masks), tokens):
        trials = [trial(mask, budget, before) for mask in left]
        ranked = [one.mask for one in sorted(trials, key=lambda one: one.heldout_loss)]
        left, before = ranked[: (len(left) + 1) // 2], budget
        yield trials, left


def candidates(found: Finished, count: int) -> dict[Mask, float]:
    """The search's mask and the best `count - 1` other complete masks that the search scored, with their losses."""
    cell, done, own = found.cell, found.done, found.own
    entries = collectives.on_first(lambda: list(scoring.read_trace(cell.folder / scoring.NAME)))
    scored = {
        replace(own, dropped=tuple(line["dropped"])): line["loss"]
        for entry in entries
        if (line := entry.line) is not None
        and "of" not in line
        and is_complete(line["dropped"], done["search"]["k"], done["search"].get("budget"))
    }
    best = sorted((mask for mask in scored if mask != own), key=lambda mask: (scored[mask], mask.dropped))
    if not best:
        raise InputError(
            f"heal.candidates={count} needs several masks to choose from, and algo={done['search']['algo']} scored "
            f"no other complete mask in cell {cell.key}: choose a search that does, such as greedy or beam, or "
            "heal.candidates=1."
        )
    return {mask: scored.get(mask, done["calibration"]["loss"]) for mask in (own, *best[: count - 1])}


def _tried(found: Finished, settings: Training, mask: Mask, before: int, path: Path) -> Trial:
    """Heal a mask and append the trial to the file `path`; `before` is the budget of the previous round in tokens."""
    home = found.cell.folder / found.place(mask)
    log.info("candidate %s: healing it on %d tokens", mask.described(), settings.tokens)
    healed = found.heal(mask, settings, home)
    shared = replace(settings, tokens=before).stable if before else 0
    last = healed.curve[-1]
    first = healed.curve[min(shared, last["step"])]  # training may have stopped early
    seconds, trained = round(last["seconds"] - first["seconds"], 3), last["tokens"] - first["tokens"]
    trial = Trial(mask, settings.tokens, healed.heldout_after, trained, seconds)
    log.info("candidate %s: held-out loss %.4f", mask.described(), trial.heldout_loss)

    def write() -> None:
        storage.append_line(path, trial._asdict() | {"mask": mask.to_json()})
        folder = home / settings.key(found.text.sha256)
        # No later round needs the state at the end of this one.
        shutil.rmtree(folder / loop.CHECKPOINTS if (folder / RECORD).exists() else folder, ignore_errors=True)

    collectives.on_first(write)
    return trial

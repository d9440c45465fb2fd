"""Measure other models beside a model: one table, one figure, one page.

depth-pruning compare MODEL OTHER... [eval=embedded] [model.dtype=float32] [NAME=VALUE ...]

MODEL is a directory that save_pretrained wrote, a GGUF file, OWNER/NAME on the hub, or an option of the group model,
such as smollm2. OTHER is one of these, or the folder of a finished cell: its mask, with its repair and its training.
All are measured on the same texts and items and on this machine: eval= with the difference to MODEL, bits per byte,
speed, size and memory. NAME=VALUE are settings of eval, forward, tracker and paths as in `depth-pruning grid`, and
model.dtype, model.device_map, model.max_memory, model.offload and model.products, which are for all models.
What was measured before is not measured again, so a command that was stopped continues.
The options of eval are listed below, of which speed, and continuations of generation, cannot compare models.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.calibration.samples import Samples
from pruning.config.app import build_option, composed
from pruning.config.compose import cell_of, recorded_cell
from pruning.config.words import check_choices, check_words, explained, names_folder
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, PruningError
from pruning.core.mask import Mask
from pruning.core.model_table import ModelRow, ModelTable
from pruning.core.records import NAME, DoneResult, HealRecord, kind_of, metrics_among, read_done, terms_beside
from pruning.core.storage import digest
from pruning.core.terminal import command_words
from pruning.evaluation import Data, DataBesideDense
from pruning.evaluation.bits_per_byte import TextCost, predicted_bytes, read_anew
from pruning.evaluation.change import change_of
from pruning.models import preflight
from pruning.models.handle import Model
from pruning.models.placement import ModelInfo
from pruning.runs.cell import Cell, Prepared
from pruning.runs.check_data import Reader, check_evaluation
from pruning.runs.heal_cell import healed_evaluator
from pruning.runs.loaded_cell import forward_of, model_of
from pruning.runs.measurements import (
    Evaluator,
    mask_evaluator,
    recorded_model,
    recorded_repair,
    recorded_scales,
)
from pruning.runs.prepare import prepare
from pruning.study.compress import model_words
from pruning.study.guide import usual_speed
from pruning.study.text_tables import render, say
from pruning.tracking.store import MLflow

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.output_maps import Repair

log = logging.getLogger(__name__)

FOLDER = "compared"  # in the results folder: a folder for each comparison
WIDTH = 100  # columns of a terminal that the table fits
OF_MODELS = (
    "dtype",
    "device_map",
    "max_memory",
    "offload",
    "products",
)  # settings of model that are for all models
ALLOWED = ("eval", "forward", "tracker", "paths.results", *(f"model.{name}" for name in OF_MODELS))
# The options that a cell is made of; only its evaluation, tracker and folder are used.
OPTIONS = {"model": "smollm2", "objective": "perplexity", "calibration": "pydoc", "algo": "greedy"}
USUAL = "eval=embedded"


def main(draw: Callable[[Path], Path]) -> None:
    """The command `depth-pruning compare`; `draw` writes figure and page beside a record and returns the page."""
    compare(command_words(), draw)


def compare(words: Sequence[str], draw: Callable[[Path], Path]) -> Path:
    """Measure the models that the words name, and write, print and record their table. Returns the record's folder.

    Raises InputError before anything is measured if a word is wrong, or if a model cannot be measured or compared.
    """
    places = [word for word in words if names_folder(word)]
    base, given = _base([word for word in words if not names_folder(word)])
    if len(places) < 2:
        raise InputError(
            f"{len(places)} models are given: give a model and others to compare it with, such as "
            "`depth-pruning compare smollm2 DIR`."
        )
    models = [_found(place, base, given) for place in places]
    if models[0].done is not None:
        raise InputError(f"{places[0]} is the folder of a cell: give its model first, and then this folder.")
    for number, one in enumerate(models):
        if same := next((other for other in models[:number] if other.name == one.name), None):
            raise InputError(f"{same.place} and {one.place} are both named {one.name}: rename one of them.")
    readings = _readings(models, base)
    storage.check_writable(base.results)
    lengths = [one.cell.model.context_length for one in models]
    speed = usual_speed(min((most for most in lengths if most is not None), default=None))
    measured: list[Measurements] = []
    for number, (one, reading) in enumerate(zip(models, readings, strict=True), start=1):
        log.info("model %d of %d: %s", number, len(models), one.name)
        cell = replace(reading.prepared.cell, evaluation=speed)
        timed = replace(reading.prepared, cell=cell, data=speed.data(None))
        measured.append(_measured(one, reading, timed))
    table = _table(models, measured, base)
    named = [[row.name, row.revision, row.dtype] for row in table.rows]
    folder = base.results / FOLDER / f"{models[0].name}-{digest([named, table.evaluation])}"
    table.write(folder)
    page = draw(folder)
    if isinstance(base.tracker, MLflow):
        try:
            base.tracker.record_models(base.results, folder)
        except PruningError as error:
            log.warning("the models are not recorded in MLflow (%s): run the same command again", error)
    notes = [textwrap.fill(note, WIDTH) for note in table.notes]
    say("\n\n".join(["", *_parts(table), *notes, f"page    {page}"]))
    return folder


# What the words ask for, and what can be said of it before anything is measured.


@dataclass(frozen=True)
class ComparedModel:
    """A model of the command: a whole one or, with `done`, the mask of a finished cell.

    The cell has the model and the settings of the command; of a finished cell, it is this cell in its own folder.
    """

    place: str
    cell: Cell
    done: DoneResult | None = None

    @property
    def name(self) -> str:
        """The name of the model or of the cell's folder."""
        return self.cell.model.name if self.done is None else self.done["cell"]


def _base(settings: Sequence[str]) -> tuple[Cell, dict[str, Any]]:
    """A cell with the settings of the command, which is never run, and those of them that are for all models."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for word in settings:
        name = word.lstrip("+~").partition("=")[0]
        if not f"{name}.".startswith(tuple(f"{one}." for one in ALLOWED)):
            raise InputError(
                f"{word} is not a setting of compare: give models as words, and settings of {', '.join(ALLOWED)}."
            )
    words = [*([] if any(word.startswith("eval=") for word in settings) else [USUAL]), *settings]
    check_words(words)
    check_choices(words)
    chosen = dict(word.split("=", 1) for word in words if word.startswith(("eval=", "tracker=")))
    try:
        base = cell_of(composed(words), OPTIONS | chosen)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
    if base.evaluation.compares:
        raise InputError(f"eval={chosen['eval']} is measured in any case: give an evaluation of quality.")
    names = {word.partition("=")[0].split(".")[1] for word in settings if word.startswith("model.")}
    return base, {name: base.config["model"][name] for name in names}


def _found(place: str, base: Cell, given: Mapping[str, Any]) -> ComparedModel:
    """What a word of the command names. Raises InputError if there is none, or if it is no causal language model."""
    folder = Path(place).expanduser().resolve()
    if not (folder / NAME).is_file():
        model = replace(cast(Model, build_option("model", model_words(place))), **given)
        preflight.check_model(model)
        return ComparedModel(place, replace(base, model=model))
    done = read_done(folder)
    # What a folder from elsewhere says of other places to write to is not followed.
    config = done["config"] | {"model": done["config"]["model"] | {"offload": None, **given}, "export": None}
    config |= {name: base.config[name] for name in ("eval", "tracker", "forward")}
    cell = recorded_cell(config | {"paths": {"results": str(folder.parent)}}, {})
    preflight.check_model(cell.model)
    return ComparedModel(place, cell, done)


@dataclass(frozen=True)
class Reading:
    """How a model reads the evaluation data. `sizes` are the bytes of the predicted tokens of each text's windows.

    `others` are the texts that it reads as other tokens than the first model.
    """

    prepared: Prepared
    sizes: Mapping[str, Sequence[int]]
    others: Sequence[str] = ()


def _readings(models: Sequence[ComparedModel], base: Cell) -> list[Reading]:
    """How each model reads the data: the windows of text that the first one draws, and the same items.

    Raises InputError as `prepare` does, and if no number could be compared.
    """
    found: list[Reading] = []
    for one in models:
        model = one.cell.model
        if one.done is None:
            data = one.cell.evaluation.data(model.tokenizer)
            ready = Prepared(one.cell, Samples("text", "", (), 0), data, None)
        else:  # also refuses data that the cell was calibrated or trained on
            ready = prepare(one.cell)
        first = found[0] if found else None
        data, others = dict(ready.data), []
        for metric, drawn in (first.prepared.data if first else data).items():
            if isinstance(drawn, DataBesideDense):
                raise InputError(
                    f"eval={base.config['eval']['option']} compares a mask with its own dense model: give another."
                )
            if _is_text(drawn) and drawn.sha256 != data[metric].sha256:
                data[metric] = read_anew(
                    cast(Samples, drawn), models[0].cell.model.tokenizer, model.tokenizer
                )
                others.append(metric)
        if others and all(map(_is_text, data.values())):
            raise InputError(
                f"{one.name} reads text as other tokens than {models[0].name}, and eval= asks for nothing but "
                "perplexities, which are per token: choose one with items too, such as eval=embedded or eval=local."
            )
        check_evaluation(data, Reader.of(model.name, model.config, model.tokenizer), base.evaluation)
        rows = {f"the data of {metric}": d.largest_id for metric, d in data.items() if isinstance(d, Samples)}
        preflight.check_vocabulary(model, rows)
        sizes = {
            m: predicted_bytes(cast(Samples, d), model.tokenizer) for m, d in data.items() if _is_text(d)
        }
        cell = replace(one.cell, results=base.results)
        found.append(Reading(replace(ready, cell=cell, data=data), sizes, others))
    return found


def _is_text(data: Data) -> bool:
    return isinstance(data, Samples) and data.kind == "text"


# Measure a model, as `eval=` does, unless its measurements are in files.


@dataclass(frozen=True)
class Measurements:
    """All metrics of a model, the terms that were kept of each, and the record of its speed."""

    revision: str
    metrics: dict[str, Any]
    how: dict[str, Any]
    terms: Mapping[str, Mapping[str, Any]]
    speed: Mapping[str, Any]
    reading: Reading

    def cost(self, metric: str) -> TextCost:
        """What a text costs the model."""
        return TextCost.of(self.terms[metric], self.reading.sizes[metric])


def _measured(one: ComparedModel, reading: Reading, timed: Prepared) -> Measurements:
    """The measurements of a model. It is loaded only if one of them is not in a file."""
    from pruning.healing.healed_files import read_weights
    from pruning.healing.loop import smaller_model
    from pruning.models.output_maps import repaired

    ready, done, model = reading.prepared, one.done, one.cell.model
    scales: tuple[float, ...] | None = None
    repair: Repair | None = None
    healing: HealRecord | None = None
    mask = Mask(model.n_blocks)
    info = ModelInfo(model.name, model.origin, model.recorded_revision, model.n_blocks, model.dtype, 0)
    if done is not None:
        info, mask, healing = ModelInfo(**done["model"]), Mask.from_json(done["mask"]), done.get("heal")
        scales, repair = recorded_scales(done), recorded_repair(one.cell, done)
        if healing is not None and "selection" in healing:
            mask = Mask.from_json(healing["selection"]["mask"])
    whole = Mask(mask.n_blocks - len(mask.gone))

    def quality(forward: Forward | None) -> tuple[Evaluator, Mask]:
        if done is None or healing is None:
            return mask_evaluator(ready, info, mask, forward, scales, repair), mask
        return healed_evaluator(ready, done, healing, forward), whole

    def speed(forward: Forward | None) -> tuple[Evaluator, Mask]:
        return mask_evaluator(timed, info, mask, forward, scales, repair), mask

    evaluator, part = quality(None)
    timer, _ = speed(None)
    module: Any = None
    if not (evaluator.has(part) and timer.has(mask)):
        loaded = model_of(one.cell) if done is None else recorded_model(one.cell, done)
        info, module, forward = (
            loaded.info if done is None else info,
            loaded.module,
            forward_of(one.cell, loaded),
        )
        timer, _ = speed(forward)
        if done is not None and healing is not None and not evaluator.has(part):
            smaller = smaller_model(loaded, mask, scales, repair)
            smaller.apply(read_weights(one.cell.folder / healing["folder"], healing))
            forward = forward_of(one.cell, smaller.model)
        evaluator, part = quality(forward)
    with nullcontext() if module is None or healing is not None else repaired(module, repair):
        found = evaluator(part)
    with nullcontext() if module is None else repaired(module, repair):
        times = timer(mask).metrics["speed"]
    terms = {metric: terms_beside(evaluator.path(metric, part)) or {} for metric in ready.data}
    if lost := [metric for metric in reading.sizes if not terms[metric]]:
        path = evaluator.path(lost[0], part)
        raise DamagedError(f"what was kept beside {path} is missing: move this file away and run again.")
    return Measurements(info.revision, found.metrics, found.how, terms, times, reading)


# The table.


def _table(models: Sequence[ComparedModel], measured: Sequence[Measurements], base: Cell) -> ModelTable:
    rows = [_row(one, found, measured[0]) for one, found in zip(models, measured, strict=True)]
    (run,) = measured[0].speed["runs"]
    speed = {name: run[name] for name in ("batch", "prompt", "new_tokens")} | {
        "device": measured[0].speed["device"]
    }
    return ModelTable(rows, base.config["eval"], measured[0].how, speed, [*_notes(models, rows)])


def _row(one: ComparedModel, own: Measurements, first: Measurements) -> ModelRow:
    """The row of a model, with its differences to the first one."""
    changes, bits = dict[str, dict[str, Any]](), dict[str, dict[str, float | None]]()
    for metric in metrics_among(own.metrics):
        if (
            own is not first
            and kind_of(metric) in ("ppl", "acc", "exact")
            and metric not in own.reading.others
        ):
            terms = [found.terms.get(metric, {}) for found in (first, own)]
            change = change_of(metric, (first.metrics, own.metrics), terms)
            changes[metric] = {"amount": change.amount, "error": change.error, "text": str(change)}
    for metric in own.reading.sizes:
        cost = own.cost(metric)
        bits[metric] = {"value": cost.per_byte, "error": cost.error}
        if own is not first:
            other = first.cost(metric)
            bits[metric]["difference"] = cost.per_byte - other.per_byte
            bits[metric]["difference_error"] = cost.error_beside(other)
    (run,), sizes, model = own.speed["runs"], own.speed["sizes"], one.cell.model
    return ModelRow(
        name=one.name,
        place=one.place,
        revision=own.revision,
        dtype=model.dtype,
        metrics=own.metrics,
        changes=changes,
        bits=bits,
        prefill=run["pruned"]["prefill_per_second"],
        decode=run["pruned"]["decode_per_second"],
        parameters=sizes["pruned"]["parameters"],
        # Of a whole model, `pruned` equals `dense`.
        disk=round(_stored_bytes(model) * sizes["pruned"]["bytes"] / sizes["dense"]["bytes"]),
        memory=run["pruned"]["peak_memory"],
        other_tokens=[*own.reading.others],
    )


def _stored_bytes(model: Model) -> int:
    """The bytes of the files of the weights of a model that has been loaded once."""
    place, options = model.place
    if model.is_gguf:
        return Path(place, options["gguf_file"]).stat().st_size
    files = model.stored_files
    return 0 if files is None else sum(file.stat().st_size for file in {*files.weights.values()})


def _notes(models: Sequence[ComparedModel], rows: Sequence[ModelRow]) -> Iterator[str]:
    """What a reader must know to compare the rows."""
    if others := [row.name for row in rows if row.other_tokens]:
        yield (
            f"{', '.join(others)}: another tokenizer than that of {rows[0].name}. Perplexities are per token and "
            "cannot be compared; bits per byte of the same text can."
        )
    if read := [one.name for one in models if one.done is None and one.cell.model.is_gguf]:
        yield (
            f"{', '.join(read)}: a GGUF file is measured with its weights expanded in memory. llama.cpp has other "
            "speeds and needs less memory."
        )
    if packaged := [one.name for one in models if one.cell.model.source == "packaged"]:
        yield f"{', '.join(packaged)}: packaged in four bits, and expanded to float32 on disk."
    if cells := [one.name for one in models if one.done is not None]:
        yield f"{', '.join(cells)}: on disk, about as many bytes as an export would have."
    if len({row.dtype for row in rows}) > 1:
        yield f"Precisions differ ({', '.join(f'{row.name} {row.dtype}' for row in rows)}): give model.dtype."


def _parts(table: ModelTable) -> Iterator[str]:
    """The table, in parts of as many columns as fit beside the names of the models."""
    columns = [*table.columns()]
    while columns:
        count = len(columns)
        while (text := _drawn(table, columns[:count])) and count > 1 and _width(text) > WIDTH:
            count -= 1
        yield text
        columns = columns[count:]


def _drawn(table: ModelTable, columns: Sequence[Any]) -> str:
    headings = [column.heading for column in columns]
    rows = zip([row.name for row in table.rows], *(column.entries for column in columns), strict=True)
    return render(["model", *headings], [*rows], right=headings)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))

"""Compare a model with others, in one table, one figure and one page.

depth-pruning compare MODEL OTHER... [eval=embedded] [model.dtype=float32] [NAME=VALUE ...]

MODEL is a directory that save_pretrained wrote, a GGUF file, OWNER/NAME on the hub, or an option of the group
`model`, such as smollm2. OTHER is one of these, or the folder of a finished cell, whose pruned model is then
measured, with any repair and training. All are measured on this machine, on the same texts and items. The
table gives bits per byte, speed, size, memory, and the metrics of eval= with their differences from MODEL.
NAME=VALUE are settings of eval, tracker and paths as in `depth-pruning grid`; model.dtype, model.device_map
and model.products apply to all models. Measurements are kept, so a stopped command continues if repeated. The
options of eval are listed below; eval=speed and options that generate continuations are refused.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.calibration.samples import Samples
from pruning.config.app import build_option
from pruning.config.compose import cell_of_words, recorded_cell
from pruning.config.words import check_line, model_words, names_folder
from pruning.core import records, storage
from pruning.core.errors import DamagedError, InputError, PruningError
from pruning.core.mask import Mask
from pruning.core.model_table import ModelRow, ModelTable
from pruning.core.terminal import command_words
from pruning.evaluation import Data
from pruning.evaluation.bits_per_byte import read_anew, window_costs
from pruning.evaluation.change import change_of
from pruning.evaluation.speed import Speed
from pruning.models.handle import Model
from pruning.models.model_files import weight_files
from pruning.models.placement import ModelInfo
from pruning.runs.cell import Cell, Prepared, forward_of, model_of
from pruning.runs.measurements import Evaluator, mask_evaluator, recorded_model, recorded_scales
from pruning.runs.prepare import Drawn, Reader, check_evaluation, prepare
from pruning.study.guide import usual_speed
from pruning.study.text_tables import render, say
from pruning.tracking.store import MLflow

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)

FOLDER = "compared"  # in the results folder: a folder that contains one folder per comparison
WIDTH = 100  # the largest number of characters in a line of the table
# The allowed settings. Those of `model` apply to all models.
ALLOWED = ("eval", "tracker", "paths.results", "model.dtype", "model.device_map", "model.products")


def main(draw: Callable[[Path], Path]) -> None:
    """The command `depth-pruning compare`; `draw` adds a figure and a page to a record's folder."""
    compare(command_words(), draw)


def compare(words: Sequence[str], draw: Callable[[Path], Path]) -> Path:
    """Measure the models named on the command line; write, print and record their table. Returns its folder.

    Raises InputError, before anything is measured, if an argument is wrong or a model cannot be compared.
    """
    check_line(words, places=True)
    places = [word for word in words if names_folder(word)]
    base, given = _base([word for word in words if not names_folder(word)])
    if len(places) < 2:
        raise InputError(f"{len(places)} models are given: give a model and others to compare it with.")
    handles: dict[Model, Model] = {}  # a model and its cells share what its handle has read
    models = [_found(place, base, given, handles) for place in places]
    if models[0].done is not None:
        raise InputError(f"{places[0]} is the folder of a cell: give its model first, and then this folder.")
    for number, one in enumerate(models):
        if same := [other.place for other in models[:number] if other.name == one.name]:
            raise InputError(f"{same[0]} and {one.place} are both named {one.name}: rename one of them.")
    models = [*_with_data(models)]
    storage.check_writable(base.command.results)
    speed = usual_speed(min(filter(None, (one.cell.model.context_length for one in models)), default=None))
    measured: list[MeasuredModel] = []
    for number, one in enumerate(models, start=1):
        log.info("model %d of %d: %s", number, len(models), one.name)
        measured.append(_measured(one, speed, base.command.results))
    (run,), device = measured[0].speed["runs"], measured[0].speed["device"]
    timed = {name: run[name] for name in ("batch", "prompt", "new_tokens")} | {"device": device}
    rows = [_row(found, measured[0]) for found in measured]
    table = ModelTable(rows, base.config["eval"], timed, [*_notes(models)])
    named = storage.digest([[row.name, row.revision, row.dtype] for row in rows] + [table.evaluation])
    folder = base.command.results / FOLDER / f"{models[0].name}-{named}"
    table.write(folder)
    page = draw(folder)
    if isinstance(base.command.tracker, MLflow):
        try:
            base.command.tracker.record_models(base.command.results, folder)
        except PruningError as error:
            log.warning("the models are not recorded in MLflow (%s): run the same command again", error)
    notes = [textwrap.fill(note, WIDTH) for note in table.notes]
    say("\n\n".join(["", *_parts(table), *notes, f"page    {page}"]))
    return folder


# Find the models named on the command line, and check them before anything is measured.


@dataclass(frozen=True)
class ComparedModel:
    """A model to compare: the dense model of `cell` or, if `done` is the cell's result, the cell's pruned model.

    `data` maps metrics to their data. `others` are the metrics on texts that this model's tokenizer splits
    differently from the first model's tokenizer.
    """

    place: str
    cell: Cell
    done: records.DoneResult | None = None
    data: Mapping[str, Data] = field(default_factory=dict)
    others: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name of the model or of the cell's folder."""
        return self.cell.model.name if self.done is None else self.folder.name

    @property
    def folder(self) -> Path:
        """The folder of the finished cell. Its name need not be the cell's key, because it may have been renamed."""
        return Path(self.place).expanduser().resolve()


def _base(settings: Sequence[str]) -> tuple[Cell, dict[str, Any]]:
    """A cell that holds the command's settings and is never run, and the settings of `model` for all models."""
    for word in settings:
        if not f"{word.lstrip('+~').partition('=')[0]}.".startswith(tuple(f"{name}." for name in ALLOWED)):
            raise InputError(
                f"{word} is not a setting of compare: give models as words, and settings of {', '.join(ALLOWED)}."
            )
    option = next((word for word in settings if word.startswith("eval=")), "eval=embedded")
    base = cell_of_words(list(dict.fromkeys([option, *settings])))
    if isinstance(base.evaluation, Speed) or getattr(base.evaluation, "prompts", False):  # continuations
        raise InputError(f"{option} compares a mask with its own dense model: give another.")
    names = {word.partition("=")[0].split(".")[1] for word in settings if word.startswith("model.")}
    return base, {name: base.config["model"][name] for name in names}


def _found(place: str, base: Cell, given: Mapping[str, Any], handles: dict[Model, Model]) -> ComparedModel:
    """The model or cell at `place`. Raises InputError if there is none, or if it is not a causal model."""
    folder = Path(place).expanduser().resolve()
    done = records.read_done(folder) if (folder / records.NAME).is_file() else None
    if done is None:
        model = cast(Model, build_option("model", model_words(place)))
        cell = replace(base, model=replace(model, **given))
    else:
        # The record of a copied folder may name places to write to: these are not used.
        config = done["config"] | {"model": done["config"]["model"] | given, "export": None}
        config |= {name: base.config[name] for name in ("eval", "tracker")}
        cell = recorded_cell(config | {"paths": {"results": str(folder.parent)}})
    cell = replace(cell, model=handles.setdefault(cell.model, cell.model))
    cell.model.check()
    return ComparedModel(place, cell, done)


def _with_data(models: Sequence[ComparedModel]) -> Iterator[ComparedModel]:
    """Yield each model with its data: all models get the same items, and windows of the same text."""
    first: Mapping[str, Data] = {}
    shared: Drawn = {}
    for one in models:
        log.info("checking %s", one.name)
        model, evaluation, others = one.cell.model, one.cell.evaluation, []
        # For a finished cell, `prepare` refuses data that it was calibrated or trained on.
        data = dict(evaluation.data(model.tokenizer) if one.done is None else prepare(one.cell, shared).data)
        first = first or data
        for metric, drawn in first.items():
            if _is_text(drawn) and drawn.sha256 != data[metric].sha256:
                own = models[0].cell.model.tokenizer
                data[metric] = read_anew(cast(Samples, drawn), own, model.tokenizer)
                others.append(metric)
        if others and all(map(_is_text, data.values())):
            raise InputError(
                f"{one.name} reads text as other tokens than {models[0].name}, and eval= asks for nothing but "
                "perplexities, which are per token: choose one with items too, such as eval=embedded or eval=local."
            )
        check_evaluation(data, Reader.of(model.name, model.config, model.tokenizer), evaluation)
        rows = {f"the data of {metric}": d.largest_id for metric, d in data.items() if isinstance(d, Samples)}
        model.check_vocabulary(rows)
        yield replace(one, data=data, others=others)


def _is_text(data: Data) -> bool:
    return isinstance(data, Samples) and data.kind == "text"


# Measure a model as `eval=` asks for, unless its measurements are in files.


@dataclass(frozen=True)
class MeasuredModel:
    """All metrics of a model, the stored terms of each metric, and the record of the model's speed."""

    model: ComparedModel
    revision: str
    metrics: Mapping[str, Any]
    terms: Mapping[str, Mapping[str, Any]]
    speed: Mapping[str, Any]


def _measured(one: ComparedModel, speed: Any, results: Path) -> MeasuredModel:
    """Measure a model, or read its measurements from `results`. The model is loaded only if a file is missing."""
    from pruning.healing.loop import read_weights, smaller_model
    from pruning.models.output_maps import read_repair, repaired

    done, model, cell = one.done, one.cell.model, one.cell.under(results=results)
    ready = Prepared(cell, Samples("text", "", (), 0), one.data, None)
    timed = replace(ready, cell=replace(cell, evaluation=speed), data=speed.data(None))
    info = ModelInfo(model.name, model.origin, model.recorded_revision, model.n_blocks, model.dtype, 0)
    part = mask = Mask(model.n_blocks)
    scales = repair = healing = loaded = None
    if done is not None:
        info, part, healing = ModelInfo(**done["model"]), Mask.from_json(done["mask"]), done.get("heal")
        scales, record = recorded_scales(done), done.get("repair")
        if record is not None and records.is_repaired(record):
            repair = read_repair(one.folder, record["sha256"])
        if healing is not None and "selection" in healing:
            part = Mask.from_json(healing["selection"]["mask"])
        mask = part if healing is None else Mask(part.n_blocks - len(part.gone))

    def evaluators(forward: Forward | None, healed: Forward | None) -> tuple[Evaluator, Evaluator]:
        timer = mask_evaluator(timed, info, part, forward, scales, repair)
        if healing is not None:
            return mask_evaluator(ready, info, mask, healed, healed=healing), timer
        return replace(mask_evaluator(ready, info, part, forward, scales, repair), whole=one.name), timer

    quality, timer = evaluators(None, None)
    if not (quality.has(mask) and timer.has(part)):
        loaded = model_of(cell) if done is None else recorded_model(cell, done)
        info, healed = loaded.info if done is None else info, loaded
        if healing is not None:
            smaller = smaller_model(loaded, part, repair)
            smaller.apply(read_weights(one.folder / healing["folder"], healing))
            healed = smaller.model
        quality, timer = evaluators(forward_of(loaded), forward_of(healed))
    with nullcontext() if loaded is None else repaired(loaded.module, repair):
        metrics, times = quality(mask).metrics, timer(part).metrics["speed"]
    terms = {metric: records.terms_beside(quality.path(metric, mask)) or {} for metric in one.data}
    if lost := [metric for metric, data in one.data.items() if _is_text(data) and not terms[metric]]:
        path = quality.path(lost[0], mask)
        raise DamagedError(f"what was kept beside {path} is missing: move this file away and run again.")
    return MeasuredModel(one, info.revision, metrics, terms, times)


# The table.


def _row(own: MeasuredModel, first: MeasuredModel) -> ModelRow:
    """The row of a model, with its differences from the first model."""
    one, model = own.model, own.model.cell.model
    changes, bits = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    for metric in records.metrics_among(own.metrics):
        if (
            own is not first
            and records.kind_of(metric) in ("ppl", "acc", "exact")
            and metric not in one.others
        ):
            terms = [found.terms.get(metric, {}) for found in (first, own)]
            change = change_of(metric, (first.metrics, own.metrics), terms)
            changes[metric] = {"amount": change.amount, "error": change.error, "text": str(change)}
    for metric in filter(lambda metric: _is_text(one.data[metric]), one.data):
        (costs, estimate), (theirs, weights) = (
            window_costs(m.terms[metric], cast(Samples, m.model.data[metric]), m.model.cell.model.tokenizer)
            for m in (own, first)
        )
        bits[metric] = {"value": estimate.mean(costs), "error": estimate.stated_error(costs)}
        if own is not first:
            bits[metric]["difference"] = estimate.mean(costs) - weights.mean(theirs)
            differences = [cost - other for cost, other in zip(costs, theirs, strict=True)]
            bits[metric]["difference_error"] = weights.stated_error(differences)
    (run,), sizes = own.speed["runs"], own.speed["sizes"]
    return ModelRow(
        name=one.name,
        place=one.place,
        revision=own.revision,
        dtype=model.dtype,
        metrics=dict(own.metrics),
        changes=changes,
        bits=bits,
        prefill=run["pruned"]["prefill_per_second"],
        decode=run["pruned"]["decode_per_second"],
        parameters=sizes["pruned"]["parameters"],
        # For a cell, the bytes of an export. The kept copy of a packaged model has another precision.
        disk=sizes["pruned"]["bytes"] if one.done or model.source == "packaged" else _stored_bytes(model),
        memory=run["pruned"]["peak_memory"],
        other_tokens=[*one.others],
    )


def _stored_bytes(model: Model) -> int:
    """The total size of a model's weight files in bytes. The model was loaded, so they are on this machine."""
    from huggingface_hub import snapshot_download

    place, options = model.place
    if model.is_gguf:
        return Path(place, options["gguf_file"]).stat().st_size
    if not Path(place).is_dir():
        place = snapshot_download(place, revision=model.revision, local_files_only=True)
    return sum(file.stat().st_size for file in {*weight_files(Path(place)).values()})


def _notes(models: Sequence[ComparedModel]) -> Iterator[str]:
    """Yield the notes that a reader needs to compare the rows."""
    if others := [one.name for one in models if one.others]:
        yield (
            f"{', '.join(others)}: another tokenizer than that of {models[0].name}. Perplexities are per token and "
            "cannot be compared; bits per byte of the same text can."
        )
    if cells := [one.name for one in models if one.done is not None]:
        yield f"{', '.join(cells)}: on disk, the bytes of the weights that an export would write."
    if any(one.cell.model.is_gguf for one in models):
        yield "A GGUF file is measured with expanded weights. llama.cpp has other speeds and needs less memory."


def _parts(table: ModelTable) -> Iterator[str]:
    """Yield the table in parts; each part has the models' names and as many columns as `WIDTH` characters allow."""
    columns, names = [*table.columns().items()], [row.name for row in table.rows]
    while columns:
        for count in range(len(columns), 0, -1):
            headings, entries = zip(*columns[:count], strict=True)
            text = render(["model", *headings], [*zip(names, *entries, strict=True)], right=headings)
            if max(map(len, text.splitlines())) <= WIDTH:
                break
        yield text
        columns = columns[count:]

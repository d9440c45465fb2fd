"""Train a pruned model on texts, so that it regains some of what the mask has cost."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pruning.api.model import (
    Calibration,
    Draw,
    ItemList,
    PrunableModel,
    check_ids,
    check_settings,
    check_type,
    draw_samples,
    exclusive,
    item_rows,
    list_of_texts,
    listed,
    path_of,
    wrap_model,
)
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import SHORTEST, start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import error_of, metrics_among
from pruning.core.storage import digest
from pruning.engine.compensation import Linear
from pruning.evaluation.corpora import perplexity, strided
from pruning.evaluation.heldout import item_accuracy
from pruning.export.gguf_export import CONVERT
from pruning.export.output_dir import check_target, directory, staging_directory
from pruning.export.pipeline import written
from pruning.export.request import Request, is_gguf
from pruning.healing.heal_settings import Training
from pruning.healing.training_text import check_length
from pruning.models.architecture import context_length_of
from pruning.models.kept_models import savable
from pruning.models.model import Model
from pruning.objective.perplexity import Perplexity
from pruning.runs.cell import ForwardSettings
from pruning.runs.check_data import Reader, check_calibration, check_evaluation
from pruning.runs.loaded_cell import forward_with


@exclusive
def heal_mask(
    model: PrunableModel,
    mask: Mask,
    *,
    texts: Sequence[str] | None = None,
    tokens: int = 200_000,
    how: str = "lora",
    folder: str | Path | None = None,
    **settings: Any,
) -> PrunableModel:
    """Train the model without the units of a mask. Returns a copy of the dense model with the healed weights.

    Run, measure or export the copy with the same mask: the units that the mask removes are not healed. `how` is an
    option of `heal`, `lora`, `full` or `distill`, and `settings` are its settings, such as `lr=1e-4`. If no
    `lr` is given, short trials choose it. If training does not help, the log says so. Without texts,
    the embedded text is used (`source="pydoc"`). With a folder, a call that was stopped continues when it is
    repeated; other masks and other weights can use the same folder. The model itself is not changed. Raises
    InputError if the mask or a setting is wrong or the texts are too short, and LossError if a loss is not finite.
    """
    from pruning.healing.loop import Healed, heal
    from pruning.healing.rate import warn_if_useless, with_rate
    from pruning.healing.training_text import draw_text, packed

    chosen = _settings(how, {"tokens": tokens, **settings})
    model.check_mask(mask)
    home = None if folder is None else path_of("folder", folder)
    check_length(chosen.length, context_length_of(model.module.config), model.name)
    if texts is None:
        text = draw_text(chosen, model.tokenizer)
    else:
        given = list_of_texts(texts, "texts")
        text = packed(token_ids(given, model.tokenizer, None), start_tokens(model.tokenizer), chosen, "texts")
    place = None if home is None else home / digest([mask.to_json(), model.language_model.weights_sha256()])

    def healing(settings: Training, place: Path | None) -> Healed:
        return heal(model.language_model, mask, text, settings, place)

    chosen, _ = with_rate(chosen, text, place, lambda trial, scratch: healing(trial, scratch).curve)
    healed = healing(chosen, place)
    warn_if_useless(healed.best_step, chosen)
    module = copy.deepcopy(model.module)
    weights = dict(module.named_parameters())
    for name, tensor in healed.tensors.items():
        weights[name].data.copy_(tensor)
    return wrap_model(module, model.tokenizer, model.name)


def _settings(how: str, settings: dict[str, Any]) -> Training:
    """The settings of an option of `heal`. Raises InputError if the option or a setting does not exist."""
    from pruning.config.app import build_named

    option: Training = build_named("heal", how)
    if not option.trains:
        raise InputError(f"how={how!r} does not train: choose lora, full or distill.")
    check_settings(type(option), settings, "setting of a healing")
    chosen = dataclasses.replace(option, **settings)
    chosen.check()
    if chosen.candidates != 1:
        raise InputError(
            f"candidates={chosen.candidates} needs the masks that a search has scored, and heal_mask heals one mask: "
            "leave it out, or heal each mask and measure it."
        )
    return chosen


# Write a model without the units that a mask drops; unlike on the command line, the model can be in memory.


@exclusive
def export_model(
    model: PrunableModel, mask: Mask, out: str | Path, *, force: bool = False, verify: bool = True
) -> Path:
    """Write a directory that `from_pretrained` loads, with a model card; returns the directory's path.

    Of a block that loses only one sub-layer, the last weights of this sub-layer become zeros; they keep their size.
    Unless `verify` is False, the written model is loaded, and its logits must equal those of the masked model bit
    for bit. An earlier export of the same model and mask is replaced; if its precision differs, only with `force`.
    A directory that holds anything else, or a changed file, is never replaced. A wrapped model is first written to a
    hidden folder beside the directory, because an export copies weights from files. Raises InputError if the
    directory cannot be used or if weights in memory have changed since `load_model`, and MismatchError if the written
    model does not equal the masked model.

    If `out` ends in `.gguf`, the blocks are cut out of the model's GGUF file (docs/gguf.md), and the path of the new
    file is returned. The model must have been loaded from such a file.
    """
    model.check_mask(mask)
    target = directory(path_of("out", out))
    with ExitStack() as stack:
        settings, in_memory = model.settings, None
        if settings is None and is_gguf(target):
            raise InputError(f"a model in memory has no GGUF file, and {CONVERT}.")
        if not is_gguf(target):
            check_target(target)
        if settings is not None:
            _check_unchanged(model, settings)
        else:
            scratch = stack.enter_context(staging_directory(target))
            settings, in_memory = _saved(model, scratch / model.name), model.name
        written(Request(settings, mask, target, force=force, verify=verify, in_memory=in_memory))
    return target


def _check_unchanged(model: PrunableModel, settings: Model) -> None:
    """Raise InputError if weights in memory are not those of the model's files, from which an export is made.

    The files are loaded once more and all weights are compared. So `load_model` needs no digest of its weights, which
    few programs would use.
    """
    offloaded = any(weight.device.type == "meta" for weight in model.module.parameters())
    placed = settings if offloaded else dataclasses.replace(settings, device_map="cpu", max_memory=None)
    stored = dataclasses.replace(placed, products="native").load_anew().module.state_dict()
    now = {name: weight for name, weight in model.module.state_dict().items() if weight.device.type != "meta"}
    names = now.keys() if offloaded else now.keys() | stored.keys()
    changed = sorted(name for name in names if not _same(now.get(name), stored.get(name)))
    if changed:
        raise InputError(
            f"{len(changed)} weights of '{model.name}' are not those of its files ({settings.path}), for example "
            f"{changed[0]}: they changed in memory, or the files did. export_model copies from the files. To export "
            "the weights in memory, wrap them: pruning.wrap_model(model.module, model.tokenizer)."
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two weights are equal bit for bit."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (weight.detach().cpu().contiguous().view(-1) for weight in (one, other))
    return first.view(torch.uint8).equal(second.view(torch.uint8))


def _saved(model: PrunableModel, folder: Path) -> Model:
    """Write a wrapped model to a folder. Returns the settings that load it from there."""
    with savable(model.module):
        model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return Model(model.name, "local", str(folder), dtype=model.language_model.info.dtype)


# Measure perplexity on texts and accuracy on items, for the dense and for the pruned model.

TextSets: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
ItemSets: TypeAlias = ItemList | Mapping[str, ItemList]


@dataclass(frozen=True)
class Measurements:
    """Metrics by name, `ppl/NAME` and `acc/NAME`, of the dense and of the pruned model.

    `NAME/stderr` is the standard error of a metric over windows or items; one window or item has none.
    """

    dense: dict[str, float]
    pruned: dict[str, float]

    def __str__(self) -> str:
        rows = [
            f"{name:<20} {_shown(self.dense, name):>18} -> {_shown(self.pruned, name)}"
            for name in metrics_among(self.pruned)
        ]
        return "\n".join(rows)


@exclusive
def measure_mask(
    model: PrunableModel,
    mask: Mask,
    *,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> Measurements:
    """Perplexity on texts and accuracy on items, of the dense model and of the model without the dropped blocks.

    `texts` and `items` are lists, or mappings from names to lists. Each text is cut into windows of `window` tokens,
    without overlap; at most `limit` windows or items of each set are used. Accuracy is the share of items whose
    right answer has the highest mean token log-likelihood among the choices.

    Raises InputError if there is nothing to measure, or a set is malformed. `SearchResult.measure` also refuses data
    that share text or items with the calibration samples.
    """
    return measured(model, mask, draw_data(model, texts, items, window, limit))


def measured(model: PrunableModel, mask: Mask, data: Mapping[str, Samples]) -> Measurements:
    """The metrics of a mask and of the dense model on data that `draw_data` has drawn."""
    model.check_mask(mask)
    forward = forward_with(ForwardSettings(), model.language_model)
    dense: dict[str, float] = {}
    pruned: dict[str, float] = {}
    for name, samples in data.items():
        measure = perplexity if samples.kind == "text" else item_accuracy
        dense |= measure(name, forward, samples, Mask(model.n_blocks)).metrics
        pruned |= measure(name, forward, samples, mask).metrics
    return Measurements(dense, pruned)


def draw_data(
    model: PrunableModel,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> dict[str, Samples]:
    """The samples of each metric. Raises InputError if there is nothing to measure, or a set is malformed."""
    check_type("window", window, int)
    check_type("limit", limit, int | None)
    if window < SHORTEST:
        raise InputError(f"window={window} is too short: give at least {SHORTEST} tokens.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give at least 1, or leave it out.")
    named_texts, named_items = _named(texts, "texts"), _named(items, "items")
    if not named_texts and not named_items:
        raise InputError("there is nothing to measure on: give texts=[...], items=[...], or both.")
    data: dict[str, Samples] = {}
    most = None if limit is None else min(limit, sys.maxsize)  # of `islice`
    for name, members in named_texts.items():
        given = list_of_texts(members, "texts" if name == "texts" else f"texts['{name}']")
        rows = tuple(islice(_windows(given, model.tokenizer, window), most))
        if not rows:
            raise InputError(f"the texts of '{name}' hold nothing to predict: give at least two tokens.")
        data[f"ppl/{name}"] = Samples("text", name, rows, 0)
    for name, pool in named_items.items():
        chosen = listed(pool, "items" if name == "items" else f"items['{name}']", "items")[:limit]
        data[f"acc/{name}"] = item_rows(model, chosen, Draw(len(chosen), None, 0))
    check_ids(model, data)
    check_evaluation(data, Reader.of(model.name, model.module.config, model.tokenizer))
    return data


def _named(sets: Any, name: str) -> dict[str, Any]:
    """Sets by name; a plain list gets the name of its argument, and there are none in an empty list."""
    if sets is None or (isinstance(sets, Sized) and not len(sets)):
        return {}
    return {str(key): value for key, value in sets.items()} if isinstance(sets, Mapping) else {name: sets}


def _windows(texts: Sequence[str], tokenizer: Any, window: int) -> Iterator[Row]:
    first = start_tokens(tokenizer)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        yield from strided(ids, first, window, None)


def _shown(values: Mapping[str, float], name: str) -> str:
    error = values.get(error_of(name))
    return f"{values[name]:,.3f}" + ("" if error is None else f" ± {error:,.3f}")


# Repair a mask without training: fold linear maps into the weights before its removed runs.


@exclusive
def repair_mask(
    model: PrunableModel,
    mask: Mask,
    calibration: Calibration = None,
    *,
    how: str = "linear",
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> PrunableModel:
    """Let linear maps stand in for the removed runs of a mask (ReplaceMe, arXiv 2505.02819).

    Returns a copy of the dense model in which the maps are folded into its weights. A map that does not help on
    samples that were held out is left out, and the log says so. Run, measure, heal or export the
    copy with the same mask. `calibration`, `samples`, `length` and `seed` are as in `search_mask`, and
    `found.samples` are the samples of a search. `how` is `linear`, and `settings` are the settings of this option of
    `compensation`, such as `sequential=False`. The model itself is not changed. Raises InputError if a
    setting is wrong, or if the model takes no maps.
    """
    from pruning.engine.repair import check, measure
    from pruning.models.output_maps import folded_weights

    fit = _repair_settings(how, settings)
    model.check_mask(mask)
    if not mask.dropped:
        raise InputError(
            "the mask removes nothing, so there is nothing to repair: give one that removes some."
        )
    drawn = draw_samples(model, calibration, Draw(samples, length, seed, "repair_mask"), Perplexity())
    reader = Reader.of(model.name, model.module.config, model.tokenizer)
    check_calibration(drawn, reader, "repair_mask")
    check(model.module, mask.unit, drawn)
    repair, _ = measure(forward_with(ForwardSettings(), model.language_model), drawn, mask, fit)
    weights = folded_weights(model.module, repair)
    module = copy.deepcopy(model.module)
    for name, values in weights.items():
        module.get_parameter(name).data.copy_(values)
    return wrap_model(module, model.tokenizer, model.name)


def _repair_settings(how: str, settings: dict[str, Any]) -> Linear:
    """The settings of a repair. Raises InputError if the option is no repair, or if a setting does not exist."""
    from pruning.config.app import build_named

    option = build_named("compensation", how)
    if not isinstance(option, Linear):
        raise InputError(f"how={how!r} measures no maps: choose linear.")
    check_settings(type(option), settings, "setting of a repair")
    return dataclasses.replace(option, **settings)

"""Change a model's weights for a mask: heal them, repair them, or write them without the dropped units."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.api.calibration_data import Calibration, draw_samples
from pruning.api.model import PrunableModel, check_settings, exclusive, list_of_texts, path_of, wrap_model
from pruning.calibration.text import start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import digest
from pruning.engine.compensation import Linear
from pruning.export.gguf_export import CONVERT
from pruning.export.output_dir import check_target, directory, staging_directory
from pruning.export.pipeline import written
from pruning.export.request import Request, is_gguf
from pruning.healing.training_text import check_length
from pruning.models.architecture import context_length_of
from pruning.models.handle import Model
from pruning.models.kept_models import savable
from pruning.objective.perplexity import Perplexity
from pruning.runs.cell import forward_of


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

    Run, measure or export the copy with the same mask: it still contains the removed units, unhealed. With a
    mask that removes nothing, the dense model is trained as a control, which shows what training alone
    gains. `how` names an option of the group `heal` (`lora`, `full` or `distill`), and `settings` are its
    settings, such as `lr=1e-4`. If `lr` is not given, short trials choose it. Without `texts`, the setting
    `source` names the text, by default "pydoc". With a `folder`, a repeated call continues a stopped one;
    calls for other masks and weights can share the folder. Raises InputError if the mask or a setting is
    wrong or the texts are too short, and LossError if a loss is not finite.
    """
    from pruning.config.app import build_option
    from pruning.healing.loop import heal
    from pruning.healing.rate import warn_if_useless, with_rate
    from pruning.healing.training_text import draw_text, packed

    option = build_option("heal", [f"heal={how}"])
    if not option.trains:
        raise InputError(f"how={how!r} does not train: choose lora, full or distill.")
    settings = {"tokens": tokens, **settings}
    check_settings(type(option), settings, "setting of heal_mask")
    chosen = replace(option, **settings)
    chosen.check()
    if chosen.candidates != 1:
        raise InputError(
            f"candidates={chosen.candidates} needs the masks that a search has scored, and heal_mask heals one mask: "
            "leave it out, or heal each mask and measure it."
        )
    model.check_mask(mask)
    place = None if folder is None else path_of("folder", folder)
    check_length(chosen.length, context_length_of(model.module.config), model.name)
    if texts is None:
        text = draw_text(chosen, model.tokenizer)
    else:
        ids = token_ids(list_of_texts(texts, "texts"), model.tokenizer, None)
        text = packed(ids, start_tokens(model.tokenizer), chosen, "texts")
    if place is not None:
        place /= digest([mask.to_json(), model.language_model.weights_sha256()])
    dense = model.language_model
    chosen, _ = with_rate(
        chosen, text, place, lambda trial, scratch: heal(dense, mask, text, trial, scratch).curve
    )
    healed = heal(dense, mask, text, chosen, place)
    warn_if_useless(healed.best_step, chosen)
    return _with_weights(model, healed.tensors)


@exclusive
def repair_mask(
    model: PrunableModel,
    mask: Mask,
    calibration: Calibration = None,
    *,
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> PrunableModel:
    """Replace each run of removed units by a linear map (ReplaceMe, arXiv 2505.02819).

    Returns a copy of the dense model in which each map is folded into the weights of the unit before its run. If a
    map does not help on held-out samples, it is left out, and the log says so. Run, measure, heal or export the copy
    with the same mask. `calibration`, `samples`, `length` and `seed` are as in `search_mask`; `settings` are those of
    the option `compensation=linear`, such as `heldout=8`. Raises InputError if a setting is wrong, or if maps cannot
    be folded into this model.
    """
    from pruning.engine.repair import check, measure
    from pruning.models.output_maps import folded_weights

    check_settings(Linear, settings, "setting of repair_mask")
    model.check_mask(mask)
    if not mask.dropped:
        raise InputError("the mask removes nothing, so nothing needs repair: give one that removes some.")
    drawn = draw_samples(
        model, calibration, Perplexity(), samples=samples, length=length, seed=seed, call="repair_mask"
    )
    check(model.module, mask.unit, drawn)
    repair, _ = measure(forward_of(model.language_model), drawn, mask, Linear(**settings))
    return _with_weights(model, folded_weights(model.module, repair))


def _with_weights(model: PrunableModel, weights: Mapping[str, Tensor]) -> PrunableModel:
    module = copy.deepcopy(model.module)
    for name, values in weights.items():
        module.get_parameter(name).data.copy_(values)
    return wrap_model(module, model.tokenizer, model.name)


# Write a model without the units that a mask drops. Unlike on the command line, the model can be in memory.


@exclusive
def export_model(
    model: PrunableModel, mask: Mask, out: str | Path, *, force: bool = False, verify: bool = True
) -> Path:
    """Write the smaller model, with a model card, to a directory for `from_pretrained`; returns its path.

    If `out` ends in `.gguf`, the blocks are cut out of the GGUF file that the model was loaded from (docs/gguf.md).
    If a block loses only one sub-layer, the output weights of this sub-layer become zeros and keep their size. Unless
    `verify` is False, the written model is loaded, and its logits must equal those of the masked model bit for bit.
    An earlier export of this model, mask and precision is replaced; any other export is replaced only with `force`. A
    directory with anything else, or with a changed file, is never replaced. Raises InputError if the directory cannot
    be used or weights in memory have changed, and MismatchError if logits differ.
    """
    model.check_mask(mask)
    target = directory(path_of("out", out))
    if model.settings is None and is_gguf(target):
        raise InputError(f"a model in memory has no GGUF file, and {CONVERT}.")
    if not is_gguf(target):
        check_target(target)
    with ExitStack() as stack:
        if model.settings is not None:
            _check_unchanged(model, model.settings)
            settings, in_memory = model.settings, None
        else:
            folder = stack.enter_context(staging_directory(target)) / model.name
            with savable(model.module):
                model.module.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
            settings = Model(model.name, "local", str(folder), dtype=model.language_model.info.dtype)
            in_memory = model.name
        written(Request(settings, mask, target, force=force, verify=verify, in_memory=in_memory))
    return target


def _check_unchanged(model: PrunableModel, settings: Model) -> None:
    """Raise InputError if weights in memory differ from those in the model's files, which an export copies."""
    stored = replace(settings, device_map="cpu", products="native").load_anew().module.state_dict()
    for name, weight in model.module.state_dict().items():
        kept = stored.get(name)
        if kept is None or kept.dtype != weight.dtype or not torch.equal(weight.cpu(), kept.cpu()):
            raise InputError(
                f"weights of '{model.name}' are not those of its files ({settings.path}), such as {name}: they "
                "changed in memory, or the files did. export_model copies from the files. To export the weights in "
                "memory, wrap them: pruning.wrap_model(model.module, model.tokenizer)."
            )

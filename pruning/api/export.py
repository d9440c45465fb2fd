"""Write a model without the units that a mask drops; unlike on the command line, the model can be in memory."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from pruning.api.arguments import path_of
from pruning.api.model import PrunableModel, exclusive
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export.gguf_source import CONVERT
from pruning.export.gguf_target import is_gguf
from pruning.export.output_dir import check_target, directory, staging_directory
from pruning.export.pipeline import written
from pruning.export.request import Request
from pruning.models import loader
from pruning.models.directory import savable
from pruning.models.spec import Model


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
    stored = loader.load_uncached(dataclasses.replace(placed, products="native")).module.state_dict()
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

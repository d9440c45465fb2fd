"""Write a model without the units that a mask drops; unlike on the command line, the model can be in memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from pruning.api.model import PrunableModel, exclusive
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export.gguf_source import CONVERT
from pruning.export.gguf_target import is_gguf
from pruning.export.output_dir import check_target, directory, staging_directory
from pruning.export.pipeline import written
from pruning.export.request import Request
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
    directory cannot be used, and MismatchError if the written model does not equal the masked model.

    If `out` ends in `.gguf`, the blocks are cut out of the model's GGUF file (docs/gguf.md), and the path of the new
    file is returned. The model must have been loaded from such a file.
    """
    model.check_mask(mask)
    target = directory(out)
    with ExitStack() as stack:
        settings, in_memory = model.settings, None
        if settings is None:
            if is_gguf(target):
                raise InputError(f"a model in memory has no GGUF file, and {CONVERT}.")
            check_target(target)
            scratch = stack.enter_context(staging_directory(target))
            settings, in_memory = _saved(model, scratch / model.name), model.name
        written(Request(settings, mask, target, force=force, verify=verify, in_memory=in_memory))
    return target


def _saved(model: PrunableModel, folder: Path) -> Model:
    """Write a wrapped model to a folder. Returns the settings that load it from there."""
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return Model(model.name, "local", str(folder), dtype=model.language_model.info.dtype)

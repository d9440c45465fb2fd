"""Prove a cut GGUF file with transformers: it must give the logits of the masked model that the whole file gives."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import verify
from pruning.export.request import Request, reference
from pruning.models import device_map, loader, pruned_config, quiet, spec
from pruning.models.attention import attention_kernel
from pruning.models.directory import in_gguf

UNSUPPORTED = (
    "With verify=false the file is cut without a comparison; a mask.json is then needed, because transformers cannot "
    "load the file."
)


def load_dense(settings: spec.Model) -> Any:
    """The model of the whole file, dequantised to float32. Raises InputError if transformers cannot load it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar ignores its settings
            return loader.load_uncached(settings).module
    except InputError as error:
        if "not supported" in str(error):
            raise InputError(f"{error} {UNSUPPORTED}") from error
        raise


def prove(
    path: Path, goal: verify.Expected, settings: spec.Model, wanted: Request, tolerance: float
) -> tuple[str, bool]:
    """How the file was checked, and whether the kinds of its blocks no longer follow from their numbers.

    `settings` are those of the whole file. If transformers derives other kinds from the blocks' numbers, it is given
    a configuration that lists them. Raises MismatchError.
    """
    from transformers import AutoConfig

    mask = wanted.mask
    config = pruned_config.pruned_config(loader.config(settings), Mask(mask.n_blocks, mask.gone))
    where, options = in_gguf(path, {})
    own = AutoConfig.from_pretrained(where, **options, trust_remote_code=False)
    moved = _kinds(own) != _kinds(config)
    of = reference(wanted)
    model, lacking = _load(path, settings, config if moved else own)
    return str(verify.compare(model, lacking, goal, tolerance, of)), moved


def _kinds(config: Any) -> Any:
    return getattr(config.get_text_config(decoder=True), "layer_types", None)


def _load(path: Path, settings: spec.Model, config: Any) -> tuple[Any, list[str]]:
    """The model of the cut file, and complaints about missing weights."""
    import torch
    from transformers import AutoModelForCausalLM

    where, options = in_gguf(path, {})
    with quiet.quiet(), contextlib.redirect_stderr(io.StringIO()):
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            **options,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention_kernel(settings, config),
            output_loading_info=True,
            trust_remote_code=False,
            **device_map.device_options(
                settings, config
            ),  # the same device as the whole file, for equal bits
        )
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    return model.eval(), [f"{len(lacking)} weights are missing, for example {lacking[0]}"] if lacking else []

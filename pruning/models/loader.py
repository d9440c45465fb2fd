"""Load causal language models: from a hub, from a local directory, or packaged on the Python index."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, UnskippableError
from pruning.models import checkpoint, quiet
from pruning.models.spec import Model, ModelInfo

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model in evaluation mode, and what to record of it."""

    module: Any  # transformers.PreTrainedModel
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        from pruning.models.blocks import input_device

        return input_device(self.module)


_loaded: dict[tuple[Any, ...], LanguageModel] = {}


def load(settings: Model) -> LanguageModel:
    """The model, loaded once for all cells that follow one another with it; the one before is let go first.

    Raises UnreachableError or InputError in one sentence, UnskippableError as `find_blocks` does.
    """
    key = (settings, str(settings.max_memory), settings.offload)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_uncached(settings)
    return _loaded[key]


def load_uncached(settings: Model) -> LanguageModel:
    """The model, loaded anew and kept nowhere. Raises as `load` does."""
    import torch
    import transformers

    where, options = checkpoint.locate(settings)
    options |= {"dtype": getattr(torch, settings.dtype), "attn_implementation": settings.attention}
    options |= placed(settings)
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    log.info("loading %s (%s) from %s", settings.name, settings.dtype, where)
    options["output_loading_info"] = True
    with quiet.quiet():
        module, found = checkpoint.from_pretrained(
            transformers.AutoModelForCausalLM, settings, where, options
        )
    if lacking := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        # transformers fills these with random numbers and goes on.
        raise InputError(
            f"model {settings.name} ({where}) lacks {len(lacking)} weights, {lacking[0]} for one."
        )
    module = module.eval()
    from pruning.models.blocks import find_blocks

    try:
        n_blocks = len(find_blocks(module).modules)
    except UnskippableError as error:
        raise UnskippableError(f"model {settings.name} ({settings.path}): {error}") from error
    parameters = sum(p.numel() for p in module.parameters())
    info = ModelInfo(
        settings.name,
        checkpoint.source(settings),
        checkpoint.revision(settings, module),
        n_blocks,
        settings.dtype,
        parameters,
    )
    return LanguageModel(module, info)


@lru_cache(maxsize=8)
def tokenizer(settings: Model) -> Any:
    """The model's tokenizer."""
    import transformers

    where, options = checkpoint.locate(settings)
    return checkpoint.from_pretrained(transformers.AutoTokenizer, settings, where, options)


@lru_cache(maxsize=8)
def n_blocks(settings: Model) -> int:
    """The number of blocks, from the configuration alone: no weights are read."""
    return int(_config(settings).get_text_config(decoder=True).num_hidden_layers)


@lru_cache(maxsize=8)
def context_length(settings: Model) -> int | None:
    """How many tokens the model can be given at once, from the configuration alone; None where it does not say."""
    found = getattr(_config(settings).get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def placed(settings: Model) -> dict[str, Any]:
    """What `from_pretrained` is to be told about devices. Raises InputError where the model fits nowhere."""
    from pruning.models import device_map

    told = device_map.device_options(settings, _config(settings))
    if "offload_folder" in told and ("gguf_file" in checkpoint.locate(settings)[1]):
        raise InputError(
            f"model {settings.name} does not fit, and GGUF weights cannot be read from disk in parts."
        )
    return told


@lru_cache(maxsize=8)
def _config(settings: Model) -> Any:
    import transformers

    where, options = checkpoint.locate(settings)
    return checkpoint.from_pretrained(transformers.AutoConfig, settings, where, options)

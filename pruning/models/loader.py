"""Load causal language models from a hub, from a local directory, or from a package of the Python index."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from pruning.core.errors import InputError, UnskippableError
from pruning.models import adapter, checkpoint, quiet
from pruning.models.attention import attention_kernel
from pruning.models.pruned_config import without_rescaling
from pruning.models.spec import AUTO, Model, ModelInfo
from pruning.models.stored_tensors import check_extra

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model in evaluation mode, and the facts about it that are recorded in results."""

    module: Any  # transformers.PreTrainedModel
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        """The device for token ids."""
        from pruning.models.block_probe import input_device

        return input_device(self.module)

    def weights_sha256(self) -> str | None:
        """The SHA-256 of all weights and their names as they are in memory; None if some are not in memory."""
        import torch

        found = hashlib.sha256()
        for name, weight in self.module.state_dict().items():
            if weight.device.type == "meta":
                return None
            found.update(f"{name}\0{weight.dtype}\0{tuple(weight.shape)}\0".encode())
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


Fact = TypeVar("Fact")


def _kept(read: Callable[[Model], Fact]) -> Callable[[Model], Fact]:
    """Keep what was read for the last eight models. It is read again if the files in a model's directory change."""
    kept = lru_cache(maxsize=8)(lambda settings, _state: read(settings))

    @wraps(read)
    def known(settings: Model) -> Fact:
        return kept(settings, checkpoint.state(settings))

    return known


_loaded: dict[tuple[Any, ...], LanguageModel] = {}


def load(settings: Model) -> LanguageModel:
    """Load the model, or return it if it is still loaded. A model is freed before another one is loaded.

    Raises UnreachableError or InputError with a short text. Raises UnskippableError as `find_blocks` does.
    """
    placing = (
        str(settings.max_memory),
        settings.offload,
        settings.products,
    )  # not compared by `settings` itself
    key = (settings, *placing, checkpoint.state(settings))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_uncached(settings)
    return _loaded[key]


def load_uncached(settings: Model) -> LanguageModel:
    """The model, newly loaded and not kept. Raises as `load` does."""
    import torch
    import transformers

    from pruning.models.block_probe import find_blocks
    from pruning.models.float32_products import use_faster_products

    name_or_path, options = checkpoint.locate_weights(settings)
    options |= {"dtype": getattr(torch, settings.dtype)}
    options |= {"attn_implementation": attention_kernel(settings, config(settings))}
    options |= _device_options(settings)
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    log.info("loading %s (%s) from %s", settings.name, settings.dtype, name_or_path)
    options["output_loading_info"] = True
    with quiet.quiet():
        module, loading = checkpoint.from_pretrained(
            transformers.AutoModelForCausalLM, settings, name_or_path, options
        )
    if getattr(module, "_hf_peft_config_loaded", False):  # an adapter on a hub; one in a directory is merged
        raise InputError(
            f"model {settings.name} ({name_or_path}) is an adapter: {adapter.MERGE} and model=local."
        )
    if lacking := sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]])):
        # transformers fills missing weights with random numbers and raises no error.
        raise InputError(
            f"model {settings.name} ({name_or_path}) lacks {len(lacking)} weights, for example {lacking[0]}: "
            "use a complete checkpoint."
        )
    without_rescaling(module.config)
    revision = checkpoint.revision(settings)
    try:
        record = (settings.name, checkpoint.source(settings), revision, settings.dtype)
        loaded = _described(module, *record)
        if settings.products == AUTO and use_faster_products(module):
            log.info(
                "products run in float32, which this processor multiplies faster than %s", settings.dtype
            )
            loaded = replace(loaded, info=replace(loaded.info, products="float32"))
        path = find_blocks(module).path
        check_extra(f"model {settings.name} ({name_or_path})", loading["unexpected_keys"], path, module)
        return loaded
    except UnskippableError as error:
        raise UnskippableError(f"model {settings.name} ({settings.path}): {error}") from error


def wrapped(module: Any, name: str) -> LanguageModel:
    """Wrap a model that is in memory. Raises UnskippableError if its blocks cannot be removed one by one."""
    return _described(module, name, "memory", "memory", str(module.dtype).removeprefix("torch."))


def _described(module: Any, name: str, source: str, revision: str, dtype: str) -> LanguageModel:
    """The model in evaluation mode, and what is recorded about it."""
    from pruning.models.block_probe import find_blocks

    n_blocks = len(find_blocks(module.eval()).modules)
    parameters = sum(p.numel() for p in module.parameters())
    attention = getattr(module.config, "_attn_implementation", None)
    return LanguageModel(module, ModelInfo(name, source, revision, n_blocks, dtype, parameters, attention))


@_kept
def tokenizer(settings: Model) -> Any:
    """The model's tokenizer. Raises InputError if the model comes without one, and as `from_pretrained` does.

    From a directory without files of a tokenizer, transformers makes one that knows special tokens only. It would
    turn every text into nothing, or into unknown tokens.
    """
    import transformers

    name_or_path, options = checkpoint.locate(settings)
    found = checkpoint.from_pretrained(transformers.AutoTokenizer, settings, name_or_path, options)
    if len(found.get_vocab()) <= len(found.get_added_vocab()):
        raise checkpoint.no_tokenizer(settings, name_or_path)
    return found


@_kept
def n_blocks(settings: Model) -> int:
    """The number of blocks, from the configuration alone: no weights are read."""
    return int(config(settings).get_text_config(decoder=True).num_hidden_layers)


@_kept
def context_length(settings: Model) -> int | None:
    """The longest input in tokens that the configuration allows; None if it sets no limit. No weights are read."""
    return context_length_of(config(settings))


def context_length_of(config: Any) -> int | None:
    """The longest input, in tokens, of a model with this configuration; None if the configuration sets no limit."""
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len")  # MPT has the second
    lengths = (getattr(text, name, None) for name in names)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def rope_change_of(config: Any) -> int | None:
    """The length above which LongRoPE embeds the positions of a whole batch in another way; None for other models."""
    ropes = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # The settings are those of all layers, or one mapping for each type of layer.
    kinds = [ropes, *(kind for kind in ropes.values() if isinstance(kind, Mapping))]
    long = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    return min((kind["original_max_position_embeddings"] for kind in long), default=None)


def _device_options(settings: Model) -> dict[str, Any]:
    """Device options for `from_pretrained`. Raises InputError if the model does not fit."""
    from pruning.models import device_map

    options = device_map.device_options(settings, config(settings))
    if "offload_folder" in options and ("gguf_file" in checkpoint.locate(settings)[1]):
        raise InputError(
            f"model {settings.name} does not fit one device, and GGUF weights cannot be offloaded: use safetensors."
        )
    return options


@_kept
def config(settings: Model) -> Any:
    """The model's configuration; no weights are read."""
    import transformers

    name_or_path, options = checkpoint.locate(settings)
    return checkpoint.from_pretrained(transformers.AutoConfig, settings, name_or_path, options)

"""Load causal language models: from a hub, from a local directory, or packaged on the Python index."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pruning import model_files
from pruning.errors import InputError, UnskippableError, unknown
from pruning.placement import DEVICE_MAPS, bounds
from pruning.resources import Resources, resources

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SOURCES = ("hub", "local", "packaged")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PLACING = ("device_map", "max_memory", "offload")  # settings that change where weights lie, and no loss


@dataclass(frozen=True)
class Model:
    """Which model, and how it is loaded.

    `path` is a hub id, a directory, or the name of a packaged model. `device_map` is "auto", for the GPUs that there
    are, or "cpu"; `max_memory` bounds what a device may hold of the weights ({0: 20GiB, cpu: 50GiB}), and `offload`
    is a folder behind them for what does not fit: see `pruning.placement`. Only safetensors and GGUF weights are
    read; no code of a model's repository is ever run. `resources` is what its jobs ask a cluster for.
    """

    name: str
    source: str
    path: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "bfloat16"
    attention: str = "sdpa"
    device_map: str = "auto"
    max_memory: Any = field(default=None, compare=False)  # untyped, so that GPUs may be numbers
    offload: str | None = field(default=None, compare=False)
    resources: Resources = field(default=Resources(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", resources(self.resources))
        if self.source not in SOURCES:
            raise unknown("model.source", self.source, SOURCES)
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(f"model.name={self.name!r} names folders: use letters, digits, '.', '_', '-'.")
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        if self.attention not in ATTENTIONS:
            raise unknown("model.attention", self.attention, ATTENTIONS)
        object.__setattr__(self, "max_memory", bounds(self.max_memory))
        if self.device_map not in DEVICE_MAPS:
            raise unknown("model.device_map", self.device_map, DEVICE_MAPS)

    def identity(self) -> dict[str, Any]:
        """What makes two loaded models the same: the weights, their precision, the attention kernel.

        A local directory is known by its contents, wherever it lies. Where its weights are put, and what its
        jobs ask for, do not count.
        """
        data = asdict(self)
        for name in ("name", "resources", *PLACING):
            del data[name]
        if self.source == "local":
            data["path"] = model_files.fingerprint(self.path)
        return data


@dataclass(frozen=True)
class ModelInfo:
    """What is recorded of a model in a result."""

    name: str
    source: str
    revision: str
    n_blocks: int
    dtype: str
    parameters: int


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model in evaluation mode, and what to record of it."""

    module: Any  # transformers.PreTrainedModel
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        from pruning.blocks import input_device

        return input_device(self.module)


_loaded: dict[tuple[Any, ...], LanguageModel] = {}


def load(settings: Model) -> LanguageModel:
    """The model, loaded once for all cells that follow one another with it; the one before is let go first.

    Raises UnreachableError or InputError in one sentence, UnskippableError as `find_blocks` does.
    """
    key = (settings, str(settings.max_memory), settings.offload)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = _load(settings)
    return _loaded[key]


def _load(settings: Model) -> LanguageModel:
    import torch
    import transformers

    where, options = model_files.locate(settings)
    options |= {"dtype": getattr(torch, settings.dtype), "attn_implementation": settings.attention}
    options |= placed(settings)
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    log.info("loading %s (%s) from %s", settings.name, settings.dtype, where)
    options["output_loading_info"] = True
    with model_files.quiet():
        module, found = model_files.from_pretrained(
            transformers.AutoModelForCausalLM, settings, where, options
        )
    if lacking := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        # transformers fills these with random numbers and goes on.
        raise InputError(
            f"model {settings.name} ({where}) lacks {len(lacking)} weights, {lacking[0]} for one."
        )
    module = module.eval()
    from pruning.blocks import find_blocks

    try:
        n_blocks = len(find_blocks(module).modules)
    except UnskippableError as error:
        raise UnskippableError(f"model {settings.name} ({settings.path}): {error}") from error
    parameters = sum(p.numel() for p in module.parameters())
    info = ModelInfo(
        settings.name,
        model_files.source(settings),
        model_files.revision(settings, module),
        n_blocks,
        settings.dtype,
        parameters,
    )
    return LanguageModel(module, info)


@lru_cache(maxsize=8)
def tokenizer(settings: Model) -> Any:
    """The model's tokenizer."""
    import transformers

    where, options = model_files.locate(settings)
    return model_files.from_pretrained(transformers.AutoTokenizer, settings, where, options)


@lru_cache(maxsize=8)
def n_blocks(settings: Model) -> int:
    """The number of blocks, from the configuration alone: no weights are read."""
    return int(_config(settings).get_text_config(decoder=True).num_hidden_layers)


@lru_cache(maxsize=8)
def positions(settings: Model) -> int | None:
    """How many tokens the model can be given at once, from the configuration alone; None where it does not say."""
    found = getattr(_config(settings).get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def placed(settings: Model) -> dict[str, Any]:
    """What `from_pretrained` is to be told about devices. Raises InputError where the model fits nowhere."""
    from pruning import placement

    told = placement.options(settings, _config(settings))
    if "offload_folder" in told and ("gguf_file" in model_files.locate(settings)[1]):
        raise InputError(
            f"model {settings.name} does not fit, and GGUF weights cannot be read from disk in parts."
        )
    return told


@lru_cache(maxsize=8)
def _config(settings: Model) -> Any:
    import transformers

    where, options = model_files.locate(settings)
    return model_files.from_pretrained(transformers.AutoConfig, settings, where, options)

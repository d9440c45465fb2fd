"""The settings for loading a model, and the facts about it that are recorded in results."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, UnskippableError, unknown
from pruning.core.wheels import check_no_folder
from pruning.models import directory

# What a model's jobs request from a cluster. These settings of the model are not part of a cell's key.

LEAST = {"gpus_per_rank": 0, "memory_gb": 0.1}


@dataclass(unsafe_hash=True)  # not frozen, since OmegaConf makes frozen dataclasses read-only
class Resources:
    """A job runs `ranks` processes on each of `nodes` machines.

    Each process, called a rank, has `gpus_per_rank` GPUs and `cpus_per_rank` cores. Each rank holds the whole
    model, on one GPU or spread over several, and evaluates its share of the samples. `memory_gb` is per node.
    `minutes` is the time limit. If a cell reaches this limit, the next run continues from the cell's files.
    """

    nodes: int = 1
    ranks: int = 1
    gpus_per_rank: int = 1
    cpus_per_rank: int = 4
    memory_gb: float = 32
    minutes: int = 240

    @property
    def gpus(self) -> int:
        """The number of GPUs per node."""
        return self.ranks * self.gpus_per_rank

    def check(self, model: str) -> None:
        """Raise InputError if a number is below its minimum."""
        for name, value in asdict(self).items():
            least = LEAST.get(name, 1)
            if value < least:
                raise InputError(
                    f"model.resources.{name}={value} of {model} is too few: choose {least} or more."
                )


def resources(settings: Any) -> Resources:
    """Make `Resources` from a mapping, as in configurations. An instance of `Resources` is returned unchanged."""
    return settings if isinstance(settings, Resources) else Resources(**settings)


log = logging.getLogger(__name__)

SOURCES = ("hub", "local", "packaged")
AUTO = "auto"
ATTENTIONS = (AUTO, "sdpa", "eager", "flash_attention_2", "flex_attention")
DEVICE_MAPS = ("auto", "cpu")
DTYPES = ("float32", "bfloat16", "float16", "float64")
LONGEST_NAME = 160  # bytes; see model_name.LONGEST
PRODUCTS = (AUTO, "native")
# Settings that decide where weights are stored and how they are multiplied. They change no more of a loss than its
# rounding.
PLACING = ("device_map", "max_memory", "offload", "products")


@dataclass(frozen=True)
class Model:
    """Which model to load, and how.

    `path` is a hub id, a directory, a GGUF file, or the name of a packaged model. If `name` is empty, a model in a
    directory is named after the directory. `device_map` is "auto" (use the available GPUs) or "cpu". `attention` is
    the attention kernel; "auto" is sdpa if the model's class supports it, else eager. `products` is "auto" (linear
    layers multiply in float32 where that is faster, see `models/float32_products.py`) or "native". `max_memory`
    limits the bytes of weights on each device, for example {0: 20GiB, cpu: 50GiB}. `offload` is a folder for weights
    that do not fit in memory. See `models/device_map.py` for both. Only safetensors and GGUF weights are read; no
    code from a model's repository is ever run. `resources` is what the model's jobs request from a cluster.
    """

    name: str
    source: str
    path: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "bfloat16"
    attention: str = AUTO
    products: str = field(default=AUTO, compare=False)
    device_map: str = "auto"
    max_memory: Any = field(default=None, compare=False)  # untyped, so that a key can be a GPU's number
    offload: str | None = field(default=None, compare=False)
    resources: Resources = field(default=Resources(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", resources(self.resources))
        if self.source not in SOURCES:
            raise unknown("model.source", self.source, SOURCES)
        self._take_gguf_file()
        if self.source == "hub":
            check_no_folder(self.path, "model.path")
        if not self.name and self.source == "local":
            object.__setattr__(self, "name", directory_name(self.location))
        check_name("model.name", self.name)
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        if self.attention not in ATTENTIONS:
            raise unknown("model.attention", self.attention, ATTENTIONS)
        if self.products not in PRODUCTS:
            raise unknown("model.products", self.products, PRODUCTS)
        object.__setattr__(self, "max_memory", memory_limits(self.max_memory))
        if self.device_map not in DEVICE_MAPS:
            raise unknown("model.device_map", self.device_map, DEVICE_MAPS)

    def _take_gguf_file(self) -> None:
        """Read `path=DIR/FILE.gguf` as `path=DIR gguf_file=FILE.gguf`."""
        if self.source != "local" or not self.path.lower().endswith(".gguf"):
            return
        file = Path(self.path).expanduser()
        if file.is_dir():
            return
        if not file.is_file():
            raise InputError(f"model.path={self.path}: there is no such file.")
        if self.gguf_file not in (None, file.name):
            raise InputError(
                f"model.path={self.path} and model.gguf_file={self.gguf_file} name two files: leave one out."
            )
        object.__setattr__(self, "path", str(file.parent))
        object.__setattr__(self, "gguf_file", file.name)

    @property
    def in_directory(self) -> bool:
        """Whether the weights are in a directory. transformers also reads a directory that is given as a hub id."""
        return self.source == "local" or (self.source == "hub" and Path(self.path).is_dir())

    @property
    def location(self) -> Path:
        """The absolute path of the directory or of the GGUF file. Only for a model in a directory."""
        return model_location(self.path, self.gguf_file)

    def identity(self) -> dict[str, Any]:
        """The settings that decide whether two models are the same: weights, precision, attention kernel.

        A model in a directory is identified by all bytes of its files, not by its path. The devices of the weights
        and the resources of the jobs are left out. `attention=auto` counts as sdpa, which was the default of older
        versions. Raises InputError as `directory.model_digest` does.
        """
        data = self._deciding()
        if self.in_directory:
            data |= {"path": directory.model_digest(self.path, self.gguf_file), "gguf_file": None}
        return data

    def placement(self) -> dict[str, Any]:
        """The settings that decide where weights are, if they are not the defaults. Times depend on them."""
        placed = {
            "device_map": self.device_map,
            "max_memory": self.max_memory,
            "offload": self.offload is not None,
        }
        usual = {"device_map": AUTO, "max_memory": None, "offload": False}
        return {name: value for name, value in placed.items() if value != usual[name]}

    def earlier_identity(self) -> dict[str, Any]:
        """The identity in the results of earlier versions, which read both ends of each file of a directory."""
        data = self._deciding()
        return data | {"path": directory.fingerprint(self.path)} if self.source == "local" else data

    def _deciding(self) -> dict[str, Any]:
        data = {
            name: value for name, value in asdict(self).items() if name not in ("name", "resources", *PLACING)
        }
        return data | {"attention": same_attention(self.attention)}


def check_name(setting: str, name: str) -> None:
    """Raise InputError if the name of a model cannot be a part of a folder's name."""
    if not re.fullmatch(r"[\w.+-]+", name) or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"{setting}={name!r} cannot name a folder: use only letters, digits, '.', '_', '+' or '-', and at most "
            f"{LONGEST_NAME} bytes."
        )


@dataclass(frozen=True)
class ModelInfo:
    """What a result records about a model."""

    name: str
    source: str
    revision: str
    n_blocks: int
    dtype: str
    parameters: int
    attention: str | None = None  # the attention kernel that was used
    products: str | None = None  # float32 if linear layers multiply in float32 instead of in `dtype`


def same_attention(attention: str) -> str:
    """The setting of `model.attention` that has the same key: sdpa for auto."""
    return "sdpa" if attention == AUTO else attention


def memory_limits(given: Any) -> dict[str, str] | None:
    """`model.max_memory` as a mapping from device names to sizes. Raises InputError if `given` is not a mapping."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InputError(
            f"model.max_memory={given} is not a mapping: write model.max_memory={{0: 20GiB, cpu: 50GiB}}."
        )
    return {str(device): str(size) for device, size in given.items()}


# Refuse a model whose configuration alone shows that its blocks cannot be removed: no weights are read.


def check_config(config: Any) -> None:
    """Raise UnskippableError if the configuration shows that a block cannot be removed alone."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnskippableError(
            "it is an encoder-decoder model: only decoder-only language models can be pruned."
        )
    shared = getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0)
    if shared:
        raise UnskippableError(
            f"its last {shared} blocks reuse keys and values of earlier blocks, so no block can be removed alone."
        )


def check_stored(config: Any) -> None:
    """Raise UnskippableError if the model that a stored configuration describes cannot be pruned.

    Beyond what `check_config` refuses, these are: quantised weights, a model that is no causal language model, and a
    masked language model, which the transformers library would load as a decoder.
    """
    check_config(config)
    for part in (config, config.get_text_config(decoder=True)):
        if "/" in str(kernel := getattr(part, "_attn_implementation", None)):
            raise UnskippableError(
                f"its configuration names the attention kernel {kernel} of a hub, whose code would be fetched and "
                "run: remove attn_implementation from config.json, and choose one with model.attention."
            )
    if (method := quantisation(config)) is not None:
        raise UnskippableError(
            f"its weights are quantised ({method}): only full-precision checkpoints and GGUF files can be pruned. "
            "Give the checkpoint that it was quantised from."
        )
    if causal_class(config) is None:
        raise UnskippableError(
            f"a {config.model_type} model is no causal language model of transformers (its classes: "
            f"{', '.join(config.architectures or ['unknown'])}): only decoder-only language models can be pruned. "
            "If it reads images or sound too, save its language model by itself."
        )
    if not isinstance(getattr(config.get_text_config(decoder=True), "num_hidden_layers", None), int):
        raise UnskippableError(
            f"the configuration of a {config.model_type} model does not give the number of its blocks "
            "(num_hidden_layers), so they cannot be found."
        )
    names = config.architectures or []
    if any(name.endswith("ForMaskedLM") for name in names) and not getattr(config, "is_decoder", True):
        raise UnskippableError(
            f"{names[0]} is a masked language model, not a causal one: its predictions see later tokens. Give a "
            "model that predicts the next token."
        )


def check_attention_left(config: Any, smaller: Any) -> None:
    """Raise InputError if the smaller configuration has only blocks without attention, and the other one has some.

    Such a model cannot generate with a cache: transformers counts the tokens in the cache of an attention block.
    """
    before, after = (_kinds(one) for one in (config, smaller))
    if any(map(_attends, before)) and after and not any(map(_attends, after)):
        raise InputError(
            f"no attention block would be left (of {sum(map(_attends, before))}), and a {config.model_type} model "
            "needs at least one: keep one of them."
        )


def _kinds(config: Any) -> list[str]:
    """The kind of each block of a hybrid model; empty if the configuration does not list the kinds."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    return [str(kind) for kind in kinds]


def _attends(kind: str) -> bool:
    return kind == "hybrid" or ("attention" in kind and "linear" not in kind)


def causal_class(config: Any) -> Any:
    """The class that transformers loads for this configuration as a causal language model; None if it has none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def quantisation(config: Any) -> str | None:
    """The method by which the stored weights are quantised, such as `gptq`; None if they are not quantised."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if settings:
            found = settings if isinstance(settings, dict) else vars(settings)
            return str(found.get("quant_method") or "of an unnamed method")
    return None


# Choose the attention kernel of a model among those that its class supports.

# For each kernel but "eager", which every class supports: the attribute by which a class of transformers says that it
# supports the kernel. The first one that a class supports is its default.
FLAGS = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}

FLASH = ("flash_attn", "kernels")  # packages from which transformers takes the kernel of flash_attention_2


def attention_kernel(settings: Model, config: Any) -> str:
    """The kernel to load a model with: the chosen one, or for `auto` sdpa if the class supports it, else eager.

    Raises InputError, with the kernels that the class supports, if it does not support the chosen one, or if the
    package of the chosen one is not installed.
    """
    if (kind := causal_class(config)) is None:
        return "eager"  # loading then says what is wrong with the model
    supported = [name for name, flag in FLAGS.items() if getattr(kind, flag, False)]
    if settings.attention == AUTO:
        return "sdpa" if "sdpa" in supported else "eager"
    if settings.attention not in (*supported, "eager"):
        raise InputError(
            f"model.attention={settings.attention} is not supported by {kind.__name__} (model {settings.name}): "
            f"choose {', '.join([AUTO, *supported])} or eager."
        )
    if settings.attention == "flash_attention_2" and not any(map(find_spec, FLASH)):
        raise InputError(
            f"model.attention=flash_attention_2 (model {settings.name}) needs the package {FLASH[0]} or {FLASH[1]}, "
            "and neither is installed: install one, or choose auto or sdpa."
        )
    return settings.attention


# The name of a model in a directory: a legal part of a folder name, made from the path.

LONGEST = (
    40  # characters of up to 4 bytes; a cell's key adds about 60, and a folder name has at most 255 bytes
)


def model_location(path: str, gguf_file: str | None) -> Path:
    """The absolute path of a model's directory, or of its GGUF file if one is named."""
    folder = Path(path).expanduser().resolve()
    return folder if gguf_file is None else folder / gguf_file


def directory_name(place: Path, parts: int = 1) -> str:
    """A name made from the last `parts` parts of a path, for example `base` or `runs-base`."""
    last = place.with_suffix("") if place.suffix.lower() == ".gguf" else place
    text = "-".join(part for part in last.parts[-parts:] if part != last.anchor)
    return re.sub(r"[^\w.+-]", "_", text).lstrip(".")[-LONGEST:] or "local"


def distinct_names(places: Sequence[Path]) -> list[str]:
    """A different name for each of some different paths: as few of the last parts of all paths as possible."""
    deepest = max(len(place.parts) for place in places)
    for parts in range(1, deepest + 1):
        names = [directory_name(place, parts) for place in places]
        if len(set(names)) == len(names):
            return names
    return [f"{directory_name(place)}-{number}" for number, place in enumerate(places, start=1)]


# Compare the weights in a directory with those that a result was measured on.
#
# A result records the digest of all bytes. Results of earlier versions record a fingerprint of both ends of each
# file, so it cannot be verified that the bytes between are the same. Such a result is used, with a warning, unless
# a file has changed since the result was measured.

ROUNDED = 1.0  # results record times to the second


def check_same_weights(model: Model, revision: str, started: str | None) -> None:
    """Raise InputError unless a model in a directory is the one that a result records.

    `revision` is the recorded digest; `started` is the time at which the cell started, in ISO format.
    """
    now = directory.model_digest(model.path, model.gguf_file)
    if now == revision:
        return
    if not earlier(model, revision):
        raise InputError(
            f"model.path={model.path} does not hold the model that the cell was run on (its files have the digest "
            f"{now[:12]}, not {revision[:12]}): give the directory of that model, model.path=DIR."
        )
    if reason := doubt(model, started):
        raise InputError(
            f"the cell was recorded when only the ends of weight files were digested, and {reason}: run the cell "
            "again in another folder (paths.results=DIR)."
        )
    warn_unverified(model.path)


def earlier(model: Model, revision: str) -> bool:
    """Whether `revision` is what an earlier version would have recorded for a model in a directory."""
    if model.source != "local":
        return revision == (model.revision or "main")
    return revision == directory.fingerprint(model.path)


def doubt(model: Model, started: str | None) -> str | None:
    """Why a result of an earlier version may be of other weights than the directory's; None if nothing says so."""
    if directory.has_adapter(Path(model.path).expanduser()):
        return "the adapter in the directory may have been ignored"
    if started is None:
        return None
    limit = datetime.fromisoformat(started).timestamp() + ROUNDED
    for file in directory.model_files(model.path, model.gguf_file):
        if file.stat().st_mtime > limit:
            return f"{file} has changed since"
    return None


@cache
def warn_unverified(path: str, reason: str | None = None) -> None:
    """Say once for each directory whether results of earlier versions are used; with a `reason`, they are not."""
    start = f"results of model.path={path} were recorded when only the ends of weight files were digested"
    if reason is None:
        log.warning("%s: it cannot be verified that the weights are still the same", start)
    else:
        log.warning("%s, and %s: they are kept, and the cells are run again", start, reason)

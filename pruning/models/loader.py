"""Load causal language models from a hub, from a local directory, or from a package of the Python index."""

from __future__ import annotations

import copy
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pruning.core.errors import InputError, UnreachableError, UnskippableError, first_line
from pruning.core.units import bytes_text
from pruning.core.wheels import commit_of, use_hub
from pruning.models import directory, pruned_config
from pruning.models.directory import INDEX, SINGLE, Shapes, gguf_of, in_gguf, model_digest, model_directory
from pruning.models.gguf import check_header
from pruning.models.pruned_config import without_rescaling
from pruning.models.spec import AUTO, Model, ModelInfo, attention_kernel

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
        from pruning.models.blocks import input_device

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
        return kept(settings, state(settings))

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
    key = (settings, *placing, state(settings))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_uncached(settings)
    return _loaded[key]


def load_uncached(settings: Model) -> LanguageModel:
    """The model, newly loaded and not kept. Raises as `load` does."""
    import torch
    import transformers

    from pruning.models.blocks import find_blocks
    from pruning.models.products import use_faster_products

    name_or_path, options = locate_weights(settings)
    options |= {"dtype": getattr(torch, settings.dtype)}
    options |= {"attn_implementation": attention_kernel(settings, config(settings))}
    options |= _device_options(settings)
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    log.info("loading %s (%s) from %s", settings.name, settings.dtype, name_or_path)
    options["output_loading_info"] = True
    with directory.quiet():
        module, loading = call_loader(transformers.AutoModelForCausalLM, settings, name_or_path, options)
    if getattr(module, "_hf_peft_config_loaded", False):  # an adapter on a hub; one in a directory is merged
        raise InputError(
            f"model {settings.name} ({name_or_path}) is an adapter: {directory.MERGE} and model=local."
        )
    if lacking := sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]])):
        # transformers fills missing weights with random numbers and raises no error.
        raise InputError(
            f"model {settings.name} ({name_or_path}) lacks {len(lacking)} weights, for example {lacking[0]}: "
            "use a complete checkpoint."
        )
    without_rescaling(module.config)
    revision = checkpoint_revision(settings)
    try:
        record = (settings.name, source(settings), revision, settings.dtype)
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
    from pruning.models.blocks import find_blocks

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

    name_or_path, options = locate(settings)
    found = call_loader(transformers.AutoTokenizer, settings, name_or_path, options)
    if len(found.get_vocab()) <= len(found.get_added_vocab()):
        raise no_tokenizer(settings, name_or_path)
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
    options = device_options(settings, config(settings))
    if "offload_folder" in options and ("gguf_file" in locate(settings)[1]):
        raise InputError(
            f"model {settings.name} does not fit one device, and GGUF weights cannot be offloaded: use safetensors."
        )
    return options


@_kept
def config(settings: Model) -> Any:
    """The model's configuration; no weights are read."""
    import transformers

    name_or_path, options = locate(settings)
    return call_loader(transformers.AutoConfig, settings, name_or_path, options)


# Locate the files of a model, identify them, and read them with transformers.

LIBRARY_ERRORS = (
    "SafetensorError",
    "StrictDataclassFieldValidationError",
    "StrictDataclassClassValidationError",
)


def source(settings: Model) -> str:
    """The origin of the weights, as recorded in results: hub id, directory, or pinned package."""
    if settings.source == "packaged":
        from pruning.models.directory import PACKAGED

        return PACKAGED[settings.path].requirement
    return str(settings.location) if settings.source == "local" else settings.path


def locate(settings: Model) -> tuple[str, dict[str, Any]]:
    """The arguments for `from_pretrained`: a name or path, and options.

    A GGUF file on a hub is downloaded unless it is in the cache. Raises InputError if the directory of a model holds
    no model, or an adapter that cannot be merged, and UnreachableError as `hub_gguf` does.
    """
    options: dict[str, Any] = {}
    if settings.source == "packaged":
        from pruning.models.directory import fetch

        return str(fetch(settings.path)), options
    if settings.in_directory:
        folder, gguf = model_directory(settings.path), gguf_of(settings.path, settings.gguf_file)
        directory.check_adapter(folder, gguf is not None)
        return (str(folder), options) if gguf is None else in_gguf(gguf, options)
    if settings.gguf_file:
        return in_gguf(hub_gguf(settings), options)
    use_hub()
    return settings.path, options | {"revision": settings.revision}


def hub_gguf(settings: Model) -> Path:
    """The GGUF file of a hub model in the cache, downloaded if needed. Raises UnreachableError if it cannot be."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    use_hub()
    assert settings.gguf_file is not None
    try:
        with directory.quiet():
            file = Path(hf_hub_download(settings.path, settings.gguf_file, revision=settings.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"{settings.gguf_file} of {settings.path} cannot be fetched ({first_line(error)}): download it, and give "
            "model=local model.path=FILE.gguf."
        ) from error
    check_header(file)
    return file


def locate_weights(settings: Model) -> tuple[str, dict[str, Any]]:
    """As `locate`, for the weights: if a directory holds an adapter, the directory of the merged model."""
    where, options = locate(settings)
    if settings.in_directory and directory.has_adapter(folder := model_directory(settings.path)):
        return str(directory.merged_folder(folder, model_digest(settings.path))), options
    return where, options


def stored_folder(settings: Model) -> Path | None:
    """The directory of a model's files; None for a hub model whose weights are not in the cache yet."""
    if (
        settings.source != "hub" or Path(settings.path).is_dir()
    ):  # transformers prefers a directory of that name
        return Path(locate(settings)[0])
    from huggingface_hub import try_to_load_from_cache

    for name in (SINGLE, INDEX):
        if isinstance(file := try_to_load_from_cache(settings.path, name, revision=settings.revision), str):
            return Path(file).parent
    return None


def checkpoint_revision(settings: Model) -> str:
    """The commit of a hub model that has been loaded, the digest of a directory, or the digest of a packaged file."""
    if settings.source == "packaged":
        from pruning.models.directory import PACKAGED

        return PACKAGED[settings.path].sha256
    if settings.in_directory:
        return model_digest(settings.path, settings.gguf_file)
    commit = commit_of(settings.path, settings.revision, settings.gguf_file or "config.json")
    return commit or settings.revision or "main"


def state(settings: Model) -> str | None:
    """The digest of the files of a model in a directory, which can change while the program runs; else None."""
    return model_digest(settings.path, settings.gguf_file) if settings.in_directory else None


def call_loader(kind: Any, settings: Model, name_or_path: str, options: dict[str, Any]) -> Any:
    """Call `kind.from_pretrained`. Raises UnreachableError or InputError, with a short text, if the call fails."""
    try:
        return kind.from_pretrained(name_or_path, trust_remote_code=False, **options)
    except Exception as error:
        if "ignore_mismatched_sizes" in str(error):
            raise InputError(
                f"model {settings.name} ({name_or_path}): stored tensors have other shapes than config.json asks "
                "for: use the configuration and the weights of one model."
            ) from error
        if "backend tokenizer" in str(error):
            raise no_tokenizer(settings, name_or_path) from error
        known = isinstance(error, (OSError, ValueError)) or type(error).__name__ in LIBRARY_ERRORS
        if not known and "gguf_file" not in options:  # the reader of GGUF files checks nothing itself
            raise
        first = first_line(error)
        if settings.source == "hub":
            raise UnreachableError(
                f"model {settings.name} ({name_or_path}) cannot be loaded ({first}). If it is gated, accept its "
                "terms on the hub and log in with `hf auth login`. Without a network, use model=local model.path=DIR."
            ) from error
        raise InputError(f"model.path={settings.path} cannot be loaded ({first}).") from error


def no_tokenizer(settings: Model, name_or_path: str) -> InputError:
    """The error of a model without a tokenizer that can be read."""
    return InputError(
        f"model {settings.name} ({name_or_path}) has no tokenizer that transformers can read: add its "
        "tokenizer.json. A tokenizer.model alone is read only with the package sentencepiece."
    )


# Compare the names and shapes of stored tensors with the model that a configuration describes.
#
# Only what is surely wrong is refused. If an old release of transformers wrote a checkpoint, its names can differ
# from those of the model; such tensors are checked when they are loaded.

# Buffers that old releases of transformers stored, and that the model computes itself.
BUFFERS = (r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$")


def check_stored_tensors(model: str, empty: Any, stored: Shapes) -> None:
    """Compare stored tensors with the model that the configuration describes (`empty`, without weights).

    Raises InputError if a block is missing or left over, if a shape differs, or if a tensor is missing.
    """
    _check_depth(model, empty, stored)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    order = sorted if _transposes(empty) else list
    for name, shape in stored.items():
        if name in wanted and order(shape) != order(wanted[name]):
            raise InputError(
                f"{model}: the tensor {name} has the shape {shape}, and config.json asks for {wanted[name]}: use the "
                "configuration and the weights of one model."
            )
    if not _unknown(empty, wanted, stored) and (lacking_names := _lacking(empty, wanted, stored)):
        raise InputError(
            f"{model} lacks {len(lacking_names)} weights, for example {lacking_names[0]}: use a complete checkpoint."
        )


def _check_depth(model: str, empty: Any, stored: Shapes) -> None:
    """Raise InputError unless the stored tensors number all blocks, and no others."""
    count = empty.config.get_text_config(decoder=True).num_hidden_layers
    try:
        path, _ = pruned_config.blocks_of(empty, count)
    except (UnskippableError, AttributeError):  # the loaded model is checked by a forward pass
        return
    seen = block_numbers(stored, path)
    if seen and (lacking := sorted({*range(count)} - seen)):
        raise _other_depth(model, count, f"lack block {lacking[0]}")
    check_extra(model, stored, path, empty)


def check_extra(model: str, names: Collection[str], path: str, empty: Any) -> None:
    """Raise InputError if tensors belong to blocks that the configuration does not count."""
    if left_over := extra_blocks(names, path, empty):
        count = empty.config.get_text_config(decoder=True).num_hidden_layers
        raise _other_depth(model, count, f"hold block {left_over[0]} too")


def extra_blocks(names: Collection[str], path: str, model: Any) -> list[int]:
    """The numbers of blocks that tensors belong to and that the configuration does not count, in order.

    `path` is the name of the list of blocks. Blocks that the model's class ignores on purpose are left out, such as
    those for the prediction of several tokens.
    """
    config = model.config.get_text_config(decoder=True)
    ignored = tuple(model._keys_to_ignore_on_load_unexpected or ())
    counted = [name for name in names if not any(re.search(pattern, name) for pattern in ignored)]
    most = config.num_hidden_layers + (getattr(config, "num_nextn_predict_layers", None) or 0)
    return sorted(number for number in block_numbers(counted, path) if number >= most)


def block_numbers(names: Collection[str], path: str) -> set[int]:
    """The block numbers in names of tensors. The first part of `path` can be missing, as in a base model."""
    short = path.partition(".")[2] or path
    matches = (re.match(rf"(?:{re.escape(path)}|{re.escape(short)})\.(\d+)\.", name) for name in names)
    return {int(match[1]) for match in matches if match}


def _transposes(empty: Any) -> bool:
    """Whether transformers transposes tensors of this architecture when it loads them."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    changes = get_checkpoint_conversion_mapping(empty.config.model_type) or ()
    steps = [step for change in changes for step in getattr(change, "operations", None) or ()]
    return any(type(step).__name__ == "Transpose" for step in steps)


def _unknown(empty: Any, wanted: Shapes, stored: Shapes) -> list[str]:
    """Stored tensors that the model may have under other names. Those that are ignored on purpose are not."""
    patterns = (*BUFFERS, *(empty._keys_to_ignore_on_load_unexpected or ()))
    return [name for name in stored.keys() - wanted.keys() if not any(re.search(p, name) for p in patterns)]


def _lacking(empty: Any, wanted: Shapes, stored: Shapes) -> list[str]:
    """Tensors that are needed and not stored. Tied copies, and those that the class initialises itself, are not."""
    tied = getattr(empty, "all_tied_weights_keys", None) or {}
    patterns = tuple(empty._keys_to_ignore_on_load_missing or ())
    return [
        name
        for name in sorted(wanted.keys() - stored.keys() - {*tied, *tied.values()})
        if not any(re.search(pattern, name) for pattern in patterns)
    ]


def _other_depth(model: str, count: int, why: str) -> InputError:
    return InputError(
        f"{model}: config.json asks for {count} blocks (0 to {count - 1}), and the weights {why}: use the "
        "configuration and the weights of one model."
    )


# Choose the device of each weight from the configuration alone, before any weight is read.
#
# If a model fits one GPU, the model is placed on that GPU. A larger model is spread over the GPUs of its rank,
# block by block. The GPUs work one after another, so more GPUs give more memory but no more speed. If
# `model.offload` names a folder, weights that do not fit the GPUs stay in main memory, and weights that do not fit
# there stay on disk. A weight that stays outside the GPUs is loaded each time it is used.

# Memory is kept free for hidden states and logits: in main memory, the fraction `SHARE` of what is available; on a
# GPU, the fraction `SHARE` of the whole GPU memory, and at least `LEAST` bytes.
SHARE, LEAST = 0.1, 1 << 30
CPU = "cpu"

Device: TypeAlias = int | str  # a GPU's number, "cpu" or "disk"


@dataclass(frozen=True)
class Needs:
    """Sizes in bytes: of all weights, and of the largest part that is never split.

    This part is usually a block or the embeddings.
    """

    total: int
    largest: int


def device_options(settings: Model, config: Any) -> dict[str, Any]:
    """Device options for `from_pretrained`; empty if there are no GPUs and the model fits main memory.

    Raises InputError, with all sizes, if the model does not fit.
    """
    gpus = [] if settings.device_map == CPU else _gpus()
    if (empty := _empty(settings, config)) is None:
        return {"device_map": "auto"} if gpus else {}
    needs = Needs(*_sizes(empty, settings))
    available = _available(gpus, settings.max_memory or {})
    devices = dict(available) if settings.offload is not None else _without_offloading(available, gpus)
    if needs.total <= devices[next(iter(devices))]:
        return {"device_map": {"": gpus[0]}} if gpus else {}
    if len(devices) == 1 and settings.offload is None:
        raise _too_large(settings, needs, available)
    chosen = _spread(empty, devices, settings)
    if settings.offload is None and "disk" in chosen.values():
        raise _too_large(settings, needs, available)
    _log_plan(settings, needs, chosen)
    options: dict[str, Any] = {"device_map": chosen}
    if settings.offload is None:
        return options
    return options | {"offload_folder": str(Path(settings.offload).expanduser())}


def _gpus() -> list[int]:
    import torch

    return list(range(torch.cuda.device_count()))


def _empty(settings: Model, config: Any) -> Any:
    """The model without its weights. None if transformers cannot build it; loading then raises a clearer error."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            kind, dtype = transformers.AutoModelForCausalLM, getattr(torch, settings.dtype)
            # A kernel that the configuration names is not fetched.
            return kind.from_config(
                copy.deepcopy(config), dtype=dtype, attn_implementation="eager", trust_remote_code=False
            )
    except (ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError, TypeError):
        return None


def _sizes(empty: Any, settings: Model) -> tuple[int, int]:
    import torch
    from accelerate.utils import compute_module_sizes, get_max_layer_size

    sizes = compute_module_sizes(empty, dtype=getattr(torch, settings.dtype))
    parts = [*empty.named_parameters(recurse=False), *empty.named_children()]
    largest, _ = get_max_layer_size(parts, sizes, list(empty._no_split_modules or ()))
    return int(sizes[""]), int(largest)


def _available(gpus: list[int], limits: Mapping[str, str]) -> dict[Device, int]:
    """Bytes for weights on each device, GPUs first. A size in `limits` replaces the measured size."""
    devices: list[Device] = [*gpus, CPU]
    if unknown := set(limits) - set(map(str, devices)):
        raise InputError(
            f"model.max_memory names {', '.join(sorted(unknown))}, but there are only "
            f"{', '.join(map(str, devices))}: name a visible GPU by its number, and main memory 'cpu'."
        )
    return {d: _bytes(d, limits[str(d)]) if str(d) in limits else _free(d) for d in devices}


def _bytes(device: Device, text: str) -> int:
    """A size in bytes, from text such as `20GiB` or a number."""
    from accelerate.utils import convert_file_size_to_int

    try:
        return int(text) if text.isdigit() else int(convert_file_size_to_int(text))
    except (ValueError, IndexError):
        raise InputError(
            f"model.max_memory.{device}={text} is not a size: write 20GiB or a number of bytes."
        ) from None


def _free(device: Device) -> int:
    import psutil
    import torch

    if device == CPU:
        return int(psutil.virtual_memory().available * (1 - SHARE))
    free, whole = torch.cuda.mem_get_info(device)
    return max(0, int(free - max(SHARE * whole, LEAST)))


def _without_offloading(available: Mapping[Device, int], gpus: list[int]) -> dict[Device, int]:
    """The devices that hold weights if nothing is offloaded: the GPUs, or main memory if there are none."""
    return {device: size for device, size in available.items() if device != CPU or not gpus}


def _spread(empty: Any, devices: dict[Device, int], settings: Model) -> dict[str, Device]:
    """The device of each part, or "disk" if a part fits no device.

    If `model.offload` is not set, parts are spread evenly over the GPUs if possible.
    """
    import torch
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    split = {
        "no_split_module_classes": list(empty._no_split_modules or ()),
        "dtype": getattr(torch, settings.dtype),
    }
    if settings.offload is None:
        even = get_balanced_memory(empty, max_memory=dict(devices), **split)
        chosen = infer_auto_device_map(empty, max_memory=even, **split)
        if "disk" not in chosen.values():
            return dict(chosen)
    return dict(infer_auto_device_map(empty, max_memory=dict(devices), **split))


def _log_plan(settings: Model, needs: Needs, chosen: Mapping[str, Device]) -> None:
    counts = Counter(chosen.values())
    parts = ", ".join(f"{_name(device)} {count}" for device, count in counts.items())
    log.info(
        "%s (%s) is spread over devices; parts on each: %s", settings.name, bytes_text(needs.total), parts
    )


def _too_large(settings: Model, needs: Needs, available: Mapping[Device, int]) -> InputError:
    sizes = ", ".join(f"{_name(device)} {bytes_text(size)}" for device, size in available.items())
    return InputError(
        f"model {settings.name} needs {bytes_text(needs.total)} for its weights in {settings.dtype} (largest part "
        f"{bytes_text(needs.largest)}), but the memory available is: {sizes}. Give each rank more GPUs "
        "(model.resources.gpus_per_rank), choose a smaller model.dtype, or set model.offload=DIR: weights that do "
        "not fit are then read from disk each time they are used, which is slow."
    )


def _name(device: Device) -> str:
    return f"GPU {device}" if isinstance(device, int) else {"cpu": "main memory"}.get(device, device)

"""A model: its settings, facts from its files, and its weights in memory.

`Model` looks up each fact once, when it is first needed: the location of the files, their digest, the
configuration, the tokenizer. Cells of one command that use the same model share one `Model` (`shared`).
"""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import (
    InputError,
    UnreachableError,
    UnskippableError,
    check_known,
    check_least,
    first_line,
)
from pruning.core.terminal import is_terminal
from pruning.core.wheels import commit_of, use_hub
from pruning.models import kept_models
from pruning.models.architecture import (
    attention_kernel,
    check_config,
    check_stored,
    check_token_ids,
    context_length_of,
)
from pruning.models.kept_models import PACKAGED, quiet
from pruning.models.model_files import ADAPTER_CONFIG, GGUF, INDEX, SINGLE, ModelFiles, find_files, in_gguf
from pruning.models.placement import LanguageModel, ModelInfo, device_options

if TYPE_CHECKING:
    from pruning.models.gguf import Stored

log = logging.getLogger(__name__)

AUTO = "auto"
SOURCES = ("hub", "local", "packaged")
DTYPES = ("float32", "bfloat16", "float16", "float64")
ALLOWED = {"dtype": DTYPES, "products": (AUTO, "native"), "device_map": (AUTO, "cpu")}
LIBRARY_ERRORS = (
    "SafetensorError",
    "StrictDataclassFieldValidationError",
    "StrictDataclassClassValidationError",
)
NO_TOKENIZER = (
    "model {} ({}) has no tokenizer that transformers can read: add its tokenizer.json. A tokenizer.model alone is "
    "read only with the package sentencepiece."
)


@dataclass(unsafe_hash=True)  # not frozen, since OmegaConf makes frozen dataclasses read-only
class Resources:
    """What a model's jobs request from a cluster: `ranks` processes on each of `nodes` machines.

    Each rank loads the whole model and evaluates its share of the samples. `memory_gb` is per node. If a cell
    takes longer than `minutes`, the next run continues from the cell's files.
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
        counts = {"nodes": 1, "ranks": 1, "gpus_per_rank": 0, "cpus_per_rank": 1, "minutes": 1}
        check_least(f"{model}: model.resources", self, memory_gb=0.1, **counts)


@dataclass(frozen=True)
class Model:
    """Which model to load, and how.

    `path` is a hub id, a directory, a GGUF file, or the name of a packaged model. If `name` is empty, a local
    model is named after its path. `device_map` is "auto" (use the available GPUs) or "cpu". `products` is
    "auto" (linear layers multiply in float32 if that is faster, see `models/products.py`) or "native" (they
    multiply in `dtype`). Only safetensors and GGUF weights are read; no code from a model's repository is
    ever run. `resources` is what the model's jobs request from a cluster.

    Properties raise InputError if the model's files are missing, damaged or inconsistent, and
    UnreachableError if they cannot be fetched.
    """

    name: str
    source: str
    path: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "bfloat16"
    products: str = AUTO
    device_map: str = AUTO
    resources: Resources = field(default=Resources(), compare=False)

    def __post_init__(self) -> None:
        def put(**settings: Any) -> None:
            for name, value in settings.items():
                object.__setattr__(self, name, value)

        given: Any = self.resources
        if not isinstance(given, Resources):  # a mapping, as in configurations
            put(resources=Resources(**given))
        check_known("model", self, source=SOURCES)
        if self.source == "local" and self.path.lower().endswith(GGUF):
            file = Path(self.path).expanduser()
            if not file.exists():
                raise InputError(f"model.path={self.path}: there is no such file.")
            if not file.is_dir() and self.gguf_file not in (None, file.name):
                raise InputError(
                    f"model.path={self.path} and model.gguf_file={self.gguf_file} name two files: leave one out."
                )
            if not file.is_dir():
                put(path=str(file.parent), gguf_file=file.name)
        if self.source != "local" and self.gguf_file is not None:
            raise InputError(
                f"model.gguf_file={self.gguf_file} is for a file on this machine: download it, and give model=local "
                "model.path=FILE.gguf."
            )
        if not self.name and self.source == "local":
            put(name=directory_name(self.location))
        check_name("model.name", self.name)
        check_known("model", self, **ALLOWED)

    # Where the model is.

    @cached_property
    def in_directory(self) -> bool:
        """Whether the weights are in a local directory: `source` is local, or a hub model's `path` is a directory."""
        return self.source == "local" or (self.source == "hub" and Path(self.path).is_dir())

    @property
    def location(self) -> Path:
        """The absolute path of a local model's directory or GGUF file. Only for models in a directory."""
        folder = Path(self.path).expanduser().resolve()
        return folder if self.gguf_file is None else folder / self.gguf_file

    @cached_property
    def files(self) -> ModelFiles | None:
        """The files of a model in a directory; None for other models."""
        return find_files(self.path, self.gguf_file) if self.in_directory else None

    @property
    def origin(self) -> str:
        """The origin of the weights, as recorded in results: hub id, local path, or pinned package."""
        if self.source == "packaged":
            return PACKAGED[self.path].requirement
        return str(self.location) if self.source == "local" else self.path

    @cached_property
    def place(self) -> tuple[str, dict[str, Any]]:
        """The arguments for `from_pretrained`: a name or path, and options."""
        if self.source == "packaged":
            return str(kept_models.fetch(self.path)), {}
        if self.files is not None:
            if (self.files.folder / ADAPTER_CONFIG).exists():
                raise InputError(
                    f"model.path={self.path} holds an adapter ({ADAPTER_CONFIG}): merge it first (peft's "
                    "merge_and_unload) and give the merged model, or remove the file to use the model without it."
                )
            return (str(self.files.folder), {}) if self.files.gguf is None else in_gguf(self.files.gguf)
        use_hub()
        return self.path, {"revision": self.revision}

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are read from a GGUF file."""
        return self.files is not None and self.files.gguf is not None

    @property
    def is_cached(self) -> bool:
        """Whether the weights of a hub model are on this machine."""
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.path, name, revision=self.revision) for name in (SINGLE, INDEX))
        return self.in_directory or any(isinstance(file, str) for file in found)

    # What identifies the model.

    def identity(self) -> dict[str, Any]:
        """The settings that identify the model: weights, precision, attention kernel.

        A model in a directory is identified by the contents of its files, not by its path. Settings that
        affect a loss only by rounding, or not at all, are left out.
        """
        left_out = ("name", "resources", "device_map", "products")
        data = {name: value for name, value in asdict(self).items() if name not in left_out}
        data["attention"] = "sdpa"  # a constant part of every key
        if self.files is not None:
            data |= {"path": self.files.digest, "gguf_file": None}
        return data

    @property
    def recorded_revision(self) -> str:
        """The commit of a loaded hub model, or the digest of a local model's files or of a packaged file."""
        if self.source == "packaged":
            return PACKAGED[self.path].sha256
        if self.files is not None:
            return self.files.digest
        return commit_of(self.path, self.revision) or self.revision or "main"

    def check_same_weights(self, revision: str) -> None:
        """Raise InputError if this is a local model whose digest is not the `revision` that a result records."""
        if self.files is not None and self.files.digest != revision:
            raise InputError(
                f"model.path={self.path} does not hold the model that the cell was run on (its files have the digest "
                f"{self.files.digest[:12]}, not {revision[:12]}): give the directory of that model, model.path=DIR."
            )

    # Facts from its configuration and its tokenizer.

    @cached_property
    def config(self) -> Any:
        """The configuration; of the weights, only those of a GGUF file's output layer are read."""
        import transformers

        found = self.read_with(transformers.AutoConfig, *self.place)
        if self.copied_head is not None:
            found.tie_word_embeddings = True
        return found

    @cached_property
    def copied_head(self) -> Stored | None:
        """The more precise of embedding and output layer in a GGUF file, if the model is tied; None otherwise."""
        from pruning.models.gguf import copied_head, open_gguf

        return (
            None if self.files is None or self.files.gguf is None else copied_head(open_gguf(self.files.gguf))
        )

    @property
    def n_blocks(self) -> int:
        """The number of blocks, from the configuration alone."""
        return int(self.config.get_text_config(decoder=True).num_hidden_layers)

    @property
    def context_length(self) -> int | None:
        """The longest input in tokens that the configuration allows; None if it sets no limit."""
        return context_length_of(self.config)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises InputError if the model comes without one.

        If the files include no tokenizer, transformers makes one that has only special tokens; this is refused.
        """
        import transformers

        place, located = self.place
        found = self.read_with(transformers.AutoTokenizer, place, {**located, "config": self.config})
        if len(found.get_vocab()) <= len(found.get_added_vocab()):
            raise InputError(NO_TOKENIZER.format(self.name, self.place[0]))
        return found

    def read_with(self, kind: Any, place: str, options: Mapping[str, Any]) -> Any:
        """The result of `kind.from_pretrained`. If it fails, raises UnreachableError or InputError."""
        try:
            return kind.from_pretrained(place, trust_remote_code=False, **options)
        except Exception as error:
            if "ignore_mismatched_sizes" in str(error):
                raise InputError(
                    f"model {self.name} ({place}): stored tensors have other shapes than config.json asks for: use "
                    "the configuration and the weights of one model."
                ) from error
            if "trust_remote_code" in str(error):
                raise InputError(
                    f"model {self.name} ({place}) needs code that comes with it, and such code is never run: give a "
                    "model whose architecture transformers has."
                ) from error
            if "backend tokenizer" in str(error):
                raise InputError(NO_TOKENIZER.format(self.name, place)) from error
            known = isinstance(error, (OSError, ValueError)) or type(error).__name__ in LIBRARY_ERRORS
            if not known and "gguf_file" not in options:  # a damaged GGUF file can raise any error
                raise
            first = first_line(error)
            if self.source == "hub":
                raise UnreachableError(
                    f"model {self.name} ({place}) cannot be loaded ({first}). If it is gated, accept its terms on "
                    "the hub and log in with `hf auth login`. Without a network, use model=local model.path=DIR."
                ) from error
            raise InputError(f"model.path={self.path} cannot be loaded ({first}).") from error

    def check(self) -> None:
        """Check everything that can be checked without weights; refuse only what is certainly wrong.

        Raises InputError if the model cannot be pruned or loaded as configured, and UnreachableError if its
        configuration cannot be fetched.
        """
        if self.source == "local" and self.revision is not None:
            raise InputError(
                f"model.revision={self.revision} means nothing for the directory {self.path}: leave it out."
            )
        try:
            (check_config if self.is_gguf else check_stored)(self.config)
        except UnskippableError as error:
            raise InputError(f"model {self.name} ({self.path}): {error}") from error

    def check_vocabulary(self, ids: Mapping[str, int]) -> None:
        """Raise InputError if the tokenizer makes token ids for which the model has no embedding.

        `ids` has the largest token id in each data set. Special tokens, for example for images or padding,
        may lack an embedding, unless they occur in the data.
        """
        rows = getattr(self.config.get_text_config(decoder=True), "vocab_size", None)
        if not isinstance(rows, int):
            return
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        numbers = self.tokenizer.get_vocab().values()
        plain = [number for number in numbers if not getattr(added.get(number), "special", False)]
        check_token_ids(rows, {f"the tokenizer of {self.name}": max(plain, default=0)} | dict(ids))

    # Its weights.

    def placement(self) -> dict[str, Any]:
        """The setting `device_map`, which affects run times; {} if the setting has its default."""
        return {} if self.device_map == AUTO else {"device_map": self.device_map}

    @property
    def device_options(self) -> dict[str, Any]:
        """Device options for `from_pretrained`. Raises InputError if the model does not fit into memory."""
        return device_options(self.name, self.dtype, self.device_map, self.config)

    def load(self) -> LanguageModel:
        """The loaded model, kept until another model is loaded. Raises the errors of `load_anew`."""
        key = (self, self.files and self.files.digest)
        if not _loaded or _loaded[0][0] != key:
            _loaded.clear()
            _loaded.append((key, self.load_anew()))
        return _loaded[0][1]

    def load_anew(self, stream: bool = False) -> LanguageModel:
        """A newly loaded model, which `Model` does not keep. With `stream`, its blocks stay in its files if they can.

        Raises UnreachableError or InputError with a short message, and the errors of `find_blocks`.
        """
        import torch
        import transformers

        from pruning.models.blocks import find_blocks
        from pruning.models.gguf import tie_copy
        from pruning.models.products import use_faster_products
        from pruning.models.streaming import read_whole_blocks, streamed_options

        place, located = self.place
        streamed = streamed_options(self.config, self.device_map) if stream else None
        options = located | (streamed or self.device_options) | {"output_loading_info": True}
        options |= {"dtype": getattr(torch, self.dtype), "attn_implementation": attention_kernel(self.config)}
        if not self.is_gguf:
            options |= {"use_safetensors": True}
        if not self.is_gguf or self.copied_head is not None:
            options |= {"config": self.config}
        log.info("loading %s (%s) from %s", self.name, self.dtype, self.path if self.is_gguf else place)
        # For a GGUF file, transformers shows a bar that no setting hides; in a log file, it takes 100 lines.
        hidden = self.is_gguf and not is_terminal(sys.stderr)
        with quiet(), redirect_stderr(io.StringIO()) if hidden else nullcontext():
            module, loading = self.read_with(transformers.AutoModelForCausalLM, place, options)
        what = f"model {self.name} ({place})"
        if lacking := sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]])):
            # transformers fills missing weights with random numbers and raises no error.
            raise InputError(
                f"{what} lacks {len(lacking)} weights, for example {lacking[0]}: use a complete checkpoint."
            )
        if streamed:
            read_whole_blocks(module)
        if self.copied_head is not None:
            tie_copy(module, self.copied_head)
        try:
            loaded = _described(module, self.name, self.origin, self.recorded_revision, self.dtype)
            _check_extra(what, loading["unexpected_keys"], find_blocks(module).path, module.config)
        except UnskippableError as error:
            raise UnskippableError(f"model {self.name} ({self.path}): {error}") from error
        if self.products == AUTO and use_faster_products(module):
            log.info("products run in float32, which this processor multiplies faster than %s", self.dtype)
            loaded = replace(loaded, info=replace(loaded.info, products="float32"))
        return loaded


def release() -> None:
    """Free the model that `Model.load` keeps, unless it is in use, and give free memory back to the system."""
    _loaded.clear()
    gc.collect()
    with suppress(AttributeError, OSError):  # only glibc keeps freed memory and has this function
        ctypes.CDLL(None).malloc_trim(0)


_loaded: list[tuple[Any, LanguageModel]] = []  # at most one model: it is freed before another one is loaded


def shared(models: Iterable[Model]) -> list[Model]:
    """The given models, but equal models become one object, so that each fact is looked up only once."""
    first: dict[Model, Model] = {}
    return [first.setdefault(model, model) for model in models]


# A model's name, which must be valid in a folder name. A local model is named after its path.

LONGEST_NAME = 160  # bytes
# In characters of at most 4 bytes. A cell's key adds about 60 bytes, and a folder name has at most 255 bytes.
LONGEST = 40


def check_name(setting: str, name: str) -> None:
    """Raise InputError if the name of a model cannot be part of a folder name."""
    if not re.fullmatch(r"[\w.+-]+", name) or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"{setting}={name!r} cannot name a folder: use only letters, digits, '.', '_', '+' or '-', and at most "
            f"{LONGEST_NAME} bytes."
        )


def directory_name(place: Path) -> str:
    """A model name made from the last part of a path, for example `base`."""
    last = place.with_suffix("") if place.suffix.lower() == GGUF else place
    return re.sub(r"[^\w.+-]", "_", last.name).lstrip(".")[-LONGEST:] or "local"


# A model in memory.


def wrapped(module: Any, name: str) -> LanguageModel:
    """A model in memory as a `LanguageModel`. Raises UnskippableError if its blocks cannot be removed one by one."""
    return _described(module, name, "memory", "memory", str(module.dtype).removeprefix("torch."))


def _check_extra(what: str, names: Iterable[str], path: str, config: Any) -> None:
    """Raise InputError if stored tensors belong to more blocks than the configuration states.

    `path` is the name of the list of blocks. Names of stored tensors can lack the first part of this name.
    """
    text = config.get_text_config(decoder=True)
    most = text.num_hidden_layers + (getattr(text, "num_nextn_predict_layers", None) or 0)
    short = path.partition(".")[2] or path
    pattern = re.compile(rf"(?:{re.escape(path)}|{re.escape(short)})\.(\d+)\.")
    numbers = {int(match[1]) for name in names if (match := pattern.match(name))}
    if extra := sorted(number for number in numbers if number >= most):
        raise InputError(
            f"{what}: config.json asks for {text.num_hidden_layers} blocks, and the weights hold block {extra[0]} "
            "too: use the configuration and the weights of one model."
        )


def _described(module: Any, name: str, source: str, revision: str, dtype: str) -> LanguageModel:
    """The model in evaluation mode, with the facts that results record about it."""
    from pruning.models.blocks import find_blocks

    n_blocks = len(find_blocks(module.eval()).modules)
    parameters = sum(p.numel() for p in module.parameters())
    attention = getattr(module.config, "_attn_implementation", None)
    return LanguageModel(module, ModelInfo(name, source, revision, n_blocks, dtype, parameters, attention))

"""The settings for loading a model, and the facts about it that are recorded in results."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, unknown
from pruning.core.hub import check_no_folder
from pruning.models import directory, model_name
from pruning.models.resources import Resources, resources

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
            object.__setattr__(self, "name", model_name.directory_name(self.location))
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
        return model_name.location(self.path, self.gguf_file)

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

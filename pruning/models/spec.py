"""The settings for loading a model, and the facts about it that are recorded in results."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pruning.core.errors import InputError, unknown
from pruning.models import directory
from pruning.models.resources import Resources, resources

log = logging.getLogger(__name__)

SOURCES = ("hub", "local", "packaged")
AUTO = "auto"
ATTENTIONS = (AUTO, "sdpa", "eager", "flash_attention_2", "flex_attention")
DEVICE_MAPS = ("auto", "cpu")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Settings that decide where weights are stored; they change no loss.
PLACING = ("device_map", "max_memory", "offload")


@dataclass(frozen=True)
class Model:
    """Which model to load, and how.

    `path` is a hub id, a directory, or the name of a packaged model. `device_map` is "auto" (use the available GPUs)
    or "cpu". `attention` is the attention kernel; "auto" is sdpa if the model's class supports it, else eager.
    `max_memory` limits the bytes of weights on each device, for example {0: 20GiB, cpu: 50GiB}.
    `offload` is a folder for weights that do not fit in memory. See `models/device_map.py` for both. Only
    safetensors and GGUF weights are read; no code from a model's repository is ever run. `resources` is what
    the model's jobs request from a cluster.
    """

    name: str
    source: str
    path: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "bfloat16"
    attention: str = AUTO
    device_map: str = "auto"
    max_memory: Any = field(default=None, compare=False)  # untyped, so that a key can be a GPU's number
    offload: str | None = field(default=None, compare=False)
    resources: Resources = field(default=Resources(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", resources(self.resources))
        if self.source not in SOURCES:
            raise unknown("model.source", self.source, SOURCES)
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(
                f"model.name={self.name!r} cannot name a folder: use only letters, digits, '.', '_', '+' or '-'."
            )
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        if self.attention not in ATTENTIONS:
            raise unknown("model.attention", self.attention, ATTENTIONS)
        object.__setattr__(self, "max_memory", memory_limits(self.max_memory))
        if self.device_map not in DEVICE_MAPS:
            raise unknown("model.device_map", self.device_map, DEVICE_MAPS)

    def identity(self) -> dict[str, Any]:
        """The settings that decide whether two models are the same: weights, precision, attention kernel.

        A local directory is identified by its contents, not its path. The devices of the weights and the
        resources of the jobs are left out. `attention=auto` counts as sdpa, which was the default of older versions.
        """
        data = asdict(self)
        for name in ("name", "resources", *PLACING):
            del data[name]
        data["attention"] = same_attention(self.attention)
        if self.source == "local":
            data["path"] = directory.fingerprint(self.path)
        return data


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

"""Which model, and how it is loaded; and what is recorded of it."""

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
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
DEVICE_MAPS = ("auto", "cpu")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PLACING = ("device_map", "max_memory", "offload")  # settings that change where weights lie, and no loss


@dataclass(frozen=True)
class Model:
    """Which model, and how it is loaded.

    `path` is a hub id, a directory, or the name of a packaged model. `device_map` is "auto", for the GPUs that there
    are, or "cpu"; `max_memory` bounds what a device may hold of the weights ({0: 20GiB, cpu: 50GiB}), and `offload`
    is a folder behind them for what does not fit: see `models/device_map.py`. Only safetensors and GGUF weights are
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
        object.__setattr__(self, "max_memory", memory_limits(self.max_memory))
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
            data["path"] = directory.fingerprint(self.path)
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


def memory_limits(given: Any) -> dict[str, str] | None:
    """`model.max_memory` as names of devices and sizes. Raises InputError for what is neither."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InputError(
            f"model.max_memory={given} is no mapping: write model.max_memory={{0: 20GiB, cpu: 50GiB}}."
        )
    return {str(place): str(size) for place, size in given.items()}

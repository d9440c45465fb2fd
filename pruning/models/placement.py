"""Choose the device of each weight from the configuration alone, before any weight is read; hold the loaded model.

If a model fits one GPU, the model is placed on that GPU. A larger model is spread over the GPUs of its rank,
block by block. The GPUs work one after another, so more GPUs give more memory but no more speed. If
`model.offload` names a folder, weights that do not fit the GPUs stay in main memory, and weights that do not fit
there stay on disk. A weight that stays outside the GPUs is loaded each time it is used.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pruning.core.errors import InputError
from pruning.core.units import bytes_text
from pruning.models.pruned_config import skeleton

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Memory is kept free for hidden states and logits: in main memory, the fraction `SHARE` of what is available; on a
# GPU, the fraction `SHARE` of the whole GPU memory, and at least `LEAST` bytes.
SHARE, LEAST = 0.1, 1 << 30
CPU = "cpu"

Device: TypeAlias = int | str  # a GPU's number, "cpu" or "disk"


@dataclass(frozen=True)
class Placement:
    """The settings of a model that decide where its weights go; `dtype` is the name of their precision."""

    name: str
    dtype: str
    device_map: str
    max_memory: Mapping[str, str] | None
    offload: str | None

    def options(self, config: Any) -> dict[str, Any]:
        """Device options for `from_pretrained`; empty if there are no GPUs and the model fits main memory.

        Raises InputError, with all sizes, if the model does not fit.
        """
        import torch
        from accelerate import infer_auto_device_map
        from accelerate.utils import compute_module_sizes, get_balanced_memory

        gpus = [] if self.device_map == CPU else list(range(torch.cuda.device_count()))
        dtype = getattr(torch, self.dtype)
        try:
            empty = skeleton(config, dtype=dtype)
        except (ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError, TypeError):
            return {"device_map": "auto"} if gpus else {}  # loading raises a clearer error
        total = int(compute_module_sizes(empty, dtype=dtype)[""])
        devices = available = _available(gpus, self.max_memory or {})
        if self.offload is None and gpus:  # only the GPUs hold weights
            devices = {device: size for device, size in available.items() if device != CPU}
        if total <= devices[next(iter(devices))]:
            return {"device_map": {"": gpus[0]}} if gpus else {}
        split = {"no_split_module_classes": list(empty._no_split_modules or ()), "dtype": dtype}
        limits = [devices]
        if self.offload is None:  # evenly over the GPUs, if that is possible
            limits = [get_balanced_memory(empty, max_memory=dict(devices), **split), devices] if gpus else []
        chosen: dict[str, Device] = {"": "disk"}
        for limit in limits:
            chosen = dict(infer_auto_device_map(empty, max_memory=dict(limit), **split))
            if "disk" not in chosen.values():
                break
        if self.offload is None and "disk" in chosen.values():
            sizes = ", ".join(f"{_name(device)} {bytes_text(size)}" for device, size in available.items())
            raise InputError(
                f"model {self.name} needs {bytes_text(total)} for its weights in {self.dtype}, but the memory "
                f"available is: {sizes}. Give each rank more GPUs (model.resources.gpus_per_rank), choose a smaller "
                "model.dtype, or set model.offload=DIR: weights that do not fit are then read from disk each time "
                "they are used, which is slow."
            )
        parts = ", ".join(f"{_name(device)} {n}" for device, n in Counter(chosen.values()).items())
        log.info("%s (%s) is spread over devices; parts on each: %s", self.name, bytes_text(total), parts)
        if self.offload is None:
            return {"device_map": chosen}
        return {"device_map": chosen, "offload_folder": str(Path(self.offload).expanduser())}


def _available(gpus: list[int], limits: Mapping[str, str]) -> dict[Device, int]:
    """Bytes for weights on each device, GPUs first. A size in `limits` replaces the measured size."""
    from accelerate.utils import convert_file_size_to_int

    devices: list[Device] = [*gpus, CPU]
    if unknown := set(limits) - set(map(str, devices)):
        raise InputError(
            f"model.max_memory names {', '.join(sorted(unknown))}, but there are only "
            f"{', '.join(map(str, devices))}: name a visible GPU by its number, and main memory 'cpu'."
        )
    sizes: dict[Device, int] = {}
    for device in devices:
        text = limits.get(str(device))
        try:
            given = text if text is None or text.isdigit() else convert_file_size_to_int(text)
            sizes[device] = _free(device) if given is None else int(given)
        except (ValueError, IndexError):
            raise InputError(
                f"model.max_memory.{device}={text} is not a size: write 20GiB or a number of bytes."
            ) from None
    return sizes


def _free(device: Device) -> int:
    import psutil
    import torch

    if device == CPU:
        return int(psutil.virtual_memory().available * (1 - SHARE))
    free, whole = torch.cuda.mem_get_info(device)
    return max(0, int(free - max(SHARE * whole, LEAST)))


def _name(device: Device) -> str:
    return f"GPU {device}" if isinstance(device, int) else {"cpu": "main memory"}.get(device, device)


# A model in memory.


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

"""Choose weights' devices from the configuration, before weights are read; define `LanguageModel`.

If a model fits one GPU, the model is placed on that GPU. A larger model is spread over the GPUs of its rank,
block by block. The GPUs work one after another, so more GPUs give more memory but no more speed.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError
from pruning.core.units import bytes_text
from pruning.models.pruned_config import skeleton

if TYPE_CHECKING:
    import torch

    from pruning.models.sublayers import Chain

log = logging.getLogger(__name__)

# Memory is kept free for hidden states and logits: the fraction `SHARE` of the available main memory or, on a
# GPU, the fraction `SHARE` of the whole GPU memory but at least `LEAST` bytes.
SHARE, LEAST = 0.1, 1 << 30
CPU = "cpu"


def device_options(name: str, dtype: str, device_map: str, config: Any) -> dict[str, Any]:
    """Device options for `from_pretrained`; empty if no GPU is used and the model fits into main memory.

    Raises InputError, with all memory sizes, if the model does not fit.
    """
    import psutil
    import torch
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes, get_balanced_memory

    gpus = {} if device_map == CPU else {gpu: _free(gpu) for gpu in range(torch.cuda.device_count())}
    precision = getattr(torch, dtype)
    try:
        empty = skeleton(config, dtype=precision)
    except (ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError, TypeError):
        return {"device_map": "auto"} if gpus else {}  # loading raises a clearer error
    total = int(compute_module_sizes(empty, dtype=precision)[""])
    memory = int(psutil.virtual_memory().available * (1 - SHARE))
    if total <= (gpus[0] if gpus else memory):
        return {"device_map": {"": 0}} if gpus else {}
    split = {"no_split_module_classes": list(empty._no_split_modules or ()), "dtype": precision}
    # Spread the weights evenly over the GPUs if possible.
    for limits in [get_balanced_memory(empty, max_memory=dict(gpus), **split), gpus] if gpus else []:
        chosen = dict(infer_auto_device_map(empty, max_memory=dict(limits), **split))
        if "disk" not in chosen.values():
            parts = ", ".join(f"GPU {gpu} {count}" for gpu, count in Counter(chosen.values()).items())
            log.info("%s (%s) is spread over devices; parts on each: %s", name, bytes_text(total), parts)
            return {"device_map": chosen}
    sizes = [
        *(f"GPU {gpu} {bytes_text(size)}" for gpu, size in gpus.items()),
        f"main memory {bytes_text(memory)}",
    ]
    raise InputError(
        f"model {name} needs {bytes_text(total)} for its weights in {dtype}, but the memory available is: "
        f"{', '.join(sizes)}. Give each rank more GPUs (model.resources.gpus_per_rank), or choose a smaller "
        "model.dtype."
    )


def _free(gpu: int) -> int:
    """The number of bytes that are free for weights on a GPU."""
    import torch

    free, whole = torch.cuda.mem_get_info(gpu)
    return max(0, int(free - max(SHARE * whole, LEAST)))


# A model in memory.


@dataclass(frozen=True)
class ModelInfo:
    """The facts that a result records about a model."""

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
    """A loaded model in evaluation mode, with the facts that results record about it."""

    module: Any  # transformers.PreTrainedModel
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        """The device for token ids."""
        from pruning.models.blocks import input_device

        return input_device(self.module)

    def chain(self, unit: str = "block") -> Chain:
        """The model's units of a kind, found once. Raises UnskippableError if the model has no such units."""
        from pruning.models.sublayers import find_chain

        return find_chain(self.module, unit)

    def weights_sha256(self) -> str:
        """The SHA-256 of the names and values of all weights in memory."""
        import torch

        found = hashlib.sha256()
        for name, weight in self.module.state_dict().items():
            found.update(f"{name}\0{weight.dtype}\0{tuple(weight.shape)}\0".encode())
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

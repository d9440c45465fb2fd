"""Where the weights of a model go, planned before any of them is read: from its configuration, on the meta device.

A model that fits one GPU goes there whole. One that does not is spread over the GPUs of its rank, block by block;
they work in turn, so that is for size and not for speed. What does not fit there either stays in main memory and,
behind that, on disk, if `model.offload` names a folder, and is brought when it is used.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pruning.core.errors import InputError
from pruning.core.units import bytes_text

if TYPE_CHECKING:
    from pruning.models.spec import Model

log = logging.getLogger(__name__)

# Kept free of weights, for hidden states and logits: this share of a device, and at least so many bytes of a GPU.
SHARE, LEAST = 0.1, 1 << 30
CPU = "cpu"

Place: TypeAlias = int | str  # a GPU's number, "cpu" or "disk"


@dataclass(frozen=True)
class Needs:
    """Bytes of all weights, and of the largest part that is never split: a block, mostly, or the embeddings."""

    total: int
    largest: int


def device_options(settings: Model, config: Any) -> dict[str, Any]:
    """What `from_pretrained` is to be told about devices: nothing for a machine without GPUs that holds the model.

    Raises InputError, with all sizes, where the model fits nowhere.
    """
    gpus = [] if settings.device_map == CPU else _gpus()
    if (empty := _empty(settings, config)) is None:
        return {"device_map": "auto"} if gpus else {}
    needs = Needs(*_sizes(empty, settings))
    room = _room(gpus, settings.max_memory or {})
    devices = dict(room) if settings.offload is not None else _without_cpu(room, gpus)
    if needs.total <= devices[next(iter(devices))]:
        return {"device_map": {"": gpus[0]}} if gpus else {}
    if len(devices) == 1 and settings.offload is None:
        raise _too_large(settings, needs, room)
    chosen = _spread(empty, devices, settings)
    if settings.offload is None and "disk" in chosen.values():
        raise _too_large(settings, needs, room)
    _say(settings, needs, chosen)
    told: dict[str, Any] = {"device_map": chosen}
    return told if settings.offload is None else told | {"offload_folder": settings.offload}


def _gpus() -> list[int]:
    import torch

    return list(range(torch.cuda.device_count()))


def _empty(settings: Model, config: Any) -> Any:
    """The model without its weights; None where transformers cannot build it, which loading it will say better."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            kind, dtype = transformers.AutoModelForCausalLM, getattr(torch, settings.dtype)
            return kind.from_config(copy.deepcopy(config), dtype=dtype)
    except (ValueError, KeyError, AttributeError):
        return None


def _sizes(empty: Any, settings: Model) -> tuple[int, int]:
    import torch
    from accelerate.utils import compute_module_sizes, get_max_layer_size

    sizes = compute_module_sizes(empty, dtype=getattr(torch, settings.dtype))
    parts = [*empty.named_parameters(recurse=False), *empty.named_children()]
    largest, _ = get_max_layer_size(parts, sizes, list(empty._no_split_modules or ()))
    return int(sizes[""]), int(largest)


def _room(gpus: list[int], given: Mapping[str, str]) -> dict[Place, int]:
    """Bytes for weights by device, the fastest first; of those that `model.max_memory` names, what it says."""
    places: list[Place] = [*gpus, CPU]
    if unknown := set(given) - set(map(str, places)):
        raise InputError(
            f"model.max_memory names {', '.join(sorted(unknown))}, and there are {', '.join(map(str, places))}: "
            "name GPUs by their number among those that are visible, and main memory 'cpu'."
        )
    return {p: _bytes(p, given[str(p)]) if str(p) in given else _free(p) for p in places}


def _bytes(place: Place, text: str) -> int:
    """A size in bytes, of `20GiB` or a number."""
    from accelerate.utils import convert_file_size_to_int

    try:
        return int(text) if text.isdigit() else int(convert_file_size_to_int(text))
    except (ValueError, IndexError):
        raise InputError(
            f"model.max_memory.{place}={text} is no size: write 20GiB or a number of bytes."
        ) from None


def _free(place: Place) -> int:
    import psutil
    import torch

    if place == CPU:
        return int(psutil.virtual_memory().available * (1 - SHARE))
    free, whole = torch.cuda.mem_get_info(place)
    return max(0, int(free - max(SHARE * whole, LEAST)))


def _without_cpu(room: Mapping[Place, int], gpus: list[int]) -> dict[Place, int]:
    """Main memory holds weights where there is no GPU; beside GPUs, only where that is asked for."""
    return {place: size for place, size in room.items() if place != CPU or not gpus}


def _spread(empty: Any, devices: dict[Place, int], settings: Model) -> dict[str, Place]:
    """A place for each part; "disk" for what fits nowhere. Evenly over the GPUs if that is possible."""
    import torch
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    split = {
        "no_split_module_classes": list(empty._no_split_modules or ()),
        "dtype": getattr(torch, settings.dtype),
    }
    if settings.offload is None:
        even = get_balanced_memory(empty, max_memory=dict(devices), **split)
        found = infer_auto_device_map(empty, max_memory=even, **split)
        if "disk" not in found.values():
            return dict(found)
    return dict(infer_auto_device_map(empty, max_memory=dict(devices), **split))


def _say(settings: Model, needs: Needs, chosen: Mapping[str, Place]) -> None:
    counts: dict[Place, int] = {}
    for place in chosen.values():
        counts[place] = counts.get(place, 0) + 1
    parts = ", ".join(f"{count} on {_name(place)}" for place, count in counts.items())
    log.info("%s (%s) is spread: %s of its parts", settings.name, bytes_text(needs.total), parts)


def _too_large(settings: Model, needs: Needs, room: Mapping[Place, int]) -> InputError:
    there = ", ".join(f"{_name(place)} {bytes_text(size)}" for place, size in room.items())
    return InputError(
        f"model {settings.name} needs {bytes_text(needs.total)} for its weights in {settings.dtype}, its "
        f"largest part {bytes_text(needs.largest)}, and there is room for: {there}. Give each rank more GPUs "
        "(model.resources.gpus_per_rank), choose a smaller model.dtype, or give model.offload=DIR: what does not fit "
        "is then read from disk when it is used, slowly."
    )


def _name(place: Place) -> str:
    return f"GPU {place}" if isinstance(place, int) else {"cpu": "main memory"}.get(place, place)

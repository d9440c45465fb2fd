"""Repairs: linear maps that stand in for removed units, folded into the weights of the units before them.

A repair holds a map T for some sub-layers: what the sub-layer adds to the hidden state is multiplied by T. The file
`repair.safetensors` holds one float32 tensor for each, (D, D) or, for a diagonal, (D,), named by its sub-layer, such
as `m3`. The folded weights are not stored, because they follow from the maps and the dense model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import unit_names
from pruning.models.output_axes import folded
from pruning.models.output_maps import find_fold

NAME = "repair.safetensors"
Precision = Callable[[str, torch.dtype], torch.dtype]


@dataclass(frozen=True)
class Repair:
    """The map (D, D) or (D,), in float32, of each repaired sub-layer: unit 2i is attention of block i, 2i + 1 MLP."""

    maps: Mapping[int, Tensor]

    @cached_property
    def sha256(self) -> str:
        """A digest of all maps: equal digests mean equal repairs."""
        digest = hashlib.sha256()
        for unit, values in sorted(self.maps.items()):
            digest.update(f"{unit} {tuple(values.shape)} ".encode())
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def names(self) -> tuple[str, ...]:
        """The repaired sub-layers in short notation, such as `m3`."""
        return tuple(unit_names("sublayer", [unit])[0] for unit in sorted(self.maps))

    def save(self, folder: Path) -> None:
        """Write `repair.safetensors` atomically."""
        from safetensors.torch import save

        tensors = {
            name: self.maps[unit].contiguous()
            for name, unit in zip(self.names(), sorted(self.maps), strict=True)
        }
        atomic_files.write_bytes(folder / NAME, save(tensors))


def read_repair(folder: Path, sha256: str) -> Repair:
    """The repair in a folder. Raises DamagedError if it is missing, cannot be read, or has another digest."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / NAME
    try:
        tensors = load(path.read_bytes())
        repair = Repair({2 * int(name[1:]) + "am".index(name[0]): value for name, value in tensors.items()})
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(
            f"{path}, the maps of the repaired cell, cannot be read: move the folder away and run the cell again."
        ) from error
    if repair.sha256 != sha256:
        raise DamagedError(
            f"{path} holds other maps than the result says: run the cell again in a new folder."
        )
    return repair


def folded_weights(model: Any, repair: Repair, precision: Precision | None = None) -> dict[str, Tensor]:
    """The weights into which maps are folded, by their names in the model.

    Products are computed in float64 and rounded once, to the dtype that `precision` gives for a weight's name and
    dtype (None: the weight's own). Raises InputError if a map cannot be folded, or if a weight is not in memory.
    """
    found = {}
    for unit, change in sorted(repair.maps.items()):
        fold = find_fold(model, unit, "diagonal" if change.dim() == 1 else "linear")
        if fold.form == "diagonal" and change.dim() == 2:
            raise InputError(f"the map of {unit_names('sublayer', [unit])[0]} cannot be folded: {fold.why}.")
        for name, axis, offset in fold.axes.axes:
            weight = model.get_parameter(name)
            check_in_memory(weight)
            values = folded(weight.detach(), axis, offset, change)
            rounded = values.to(weight.dtype if precision is None else precision(name, weight.dtype))
            found[name] = rounded.to(weight.dtype).contiguous()
    return found


def check_in_memory(weight: Tensor) -> None:
    """Raise InputError if a weight is on disk, where it cannot be replaced."""
    if weight.device.type == "meta":
        raise InputError(
            "maps cannot be folded into weights that are offloaded: use a larger machine, a smaller model.dtype, or "
            "compensation=magnitude."
        )


@contextmanager
def replaced(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context the model has other values for some weights; on exit the old ones are back, bit for bit.

    A state that was computed outside must not be used inside: use a new `Forward`.
    """
    with ExitStack() as stack:
        for name, values in weights.items():
            stack.enter_context(_replaced(model.get_parameter(name), values))
        yield


@contextmanager
def repaired(model: Any, repair: Repair | None) -> Iterator[None]:
    """Within this context the model has the folded weights of a repair, if there is one; see `replaced`."""
    with replaced(model, {} if repair is None else folded_weights(model, repair)):
        yield


@contextmanager
def _replaced(parameter: Any, values: Tensor) -> Iterator[None]:
    saved = parameter.data
    parameter.data = values
    try:
        yield
    finally:
        parameter.data = saved

"""Measure the memory that a pass needs besides the hidden states it keeps, by running one block and the head.

A formula would have to know the intermediate tensors, the attention kernel and the experts of each architecture.
Memory that libraries allocate inside a kernel is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruning.core.mask import Mask
from pruning.engine.batching import Batch
from pruning.engine.logprobs import (
    Projection,
    Readout,
    compared_at_once,
    distributions,
    positions_at_once,
    read_out,
)
from pruning.engine.prefix_tree import model_entry, run_masks
from pruning.models.loader import LanguageModel
from pruning.models.units import find_chain


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were created in its context and still exist, and records the peak."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the tensors that it returns, unless they share memory with its inputs."""
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            if tensor.untyped_storage()._cdata not in inputs:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._counted:
            return
        self._counted.add(number)
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._forget, number, size)

    def _forget(self, number: int, size: int) -> None:
        self._counted.discard(number)
        self.live -= size


@torch.inference_mode()
def blocks_bytes(model: LanguageModel, batch: Batch, mask: Mask, merged: int) -> int:
    """The bytes needed to run a unit on `merged` branches of a batch at once, and to hold the inputs of all blocks.

    Of the units that the mask keeps, the one with the most parameters is run. Inputs are cached for each number of
    branches from 1 to `merged`.
    """
    sizes = find_chain(model.module, mask.unit).sizes()
    largest = max(mask.kept, key=sizes.__getitem__, default=None)
    alone = mask.drop(*(i for i in range(mask.n_units) if i != largest))
    block = _most(lambda: run_masks(model, batch, [alone], 1, lambda *_: None))
    tally = Tally()
    with tally:
        entry = model_entry(model, batch, 1, {})
        inputs = tally.live - entry.hidden.nbytes
    return merged * block + (merged * (merged + 1) // 2 - merged) * inputs


@torch.inference_mode()
def head_bytes(
    model: LanguageModel, batch: Batch, readout: Readout, projection: Projection, merged: int
) -> int:
    """Bytes for computing the readout of `merged` branches of a batch at its targets."""
    config = model.module.config.get_text_config(decoder=True)
    count = merged * len(batch.targets)
    state = torch.zeros(1, int(config.hidden_size), dtype=model.module.dtype, device=model.device)
    at_once = compared_at_once if readout.compares else positions_at_once
    step = min(count, at_once(model.device.type, projection.vocabulary, projection.limit))
    flat, targets = state.expand(step, -1), batch.targets[:1].repeat(step)

    def read() -> None:
        known = distributions(projection, flat) if readout.compares else None
        read_out(readout, projection, flat, known, targets)

    most = _most(read)
    return most + (2 + 2 * readout.compares) * count * state.nbytes


def _most(run: Callable[[], object]) -> int:
    tally = Tally()
    with tally:
        run()
    return tally.most

"""The memory that a pass takes beside the hidden states that it keeps: measured on one block and the head.

A formula would have to know each architecture's intermediates, its attention kernel and its experts. What libraries
take for themselves inside of a kernel is not seen.
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
from pruning.engine.logprobs import Projection, Readout, positions_at_once, read_out
from pruning.engine.prefix_tree import model_entry, run_masks
from pruning.models.blocks import find_blocks
from pruning.models.loader import LanguageModel


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that were made within it and are alive, and the most there were at a time."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it returns where that shares no memory with what it was given."""
        found = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(found):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            if tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._known:
            return
        self._known.add(number)
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._forget, number, size)

    def _forget(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.live -= size


@torch.inference_mode()
def blocks_bytes(model: LanguageModel, batch: Batch, mask: Mask, merged: int) -> int:
    """Bytes for `merged` branches of a batch that go through a block as one, and what the model hands to its blocks.

    That is kept for each number of branches that have gone together. The largest block that the mask keeps is run.
    """
    blocks = find_blocks(model.module).modules
    largest = max(mask.kept, key=lambda i: sum(p.numel() for p in blocks[i].parameters()), default=None)
    alone = Mask(mask.n_blocks, tuple(i for i in range(mask.n_blocks) if i != largest))
    block = _most(lambda: run_masks(model, batch, [alone], 1, lambda _: None))
    tally = Tally()
    with tally:
        entry = model_entry(model, batch, 1, {})
        handed = tally.live - entry.hidden.nbytes
    return merged * block + (merged * (merged + 1) // 2 - merged) * handed


@torch.inference_mode()
def head_bytes(
    model: LanguageModel, batch: Batch, readout: Readout, projection: Projection, merged: int
) -> int:
    """Bytes for reading `merged` branches of a batch at its targets."""
    config = model.module.config.get_text_config(decoder=True)
    count = merged * len(batch.targets)
    state = torch.zeros(1, int(config.hidden_size), dtype=model.module.dtype, device=model.device)
    once = min(count, positions_at_once(model.device.type, projection.vocabulary, projection.limit))
    flat, targets = state.expand(once, -1), batch.targets[:1].repeat(once)
    known = flat if readout.compares else None
    most = _most(lambda: read_out(readout, projection, flat, known, targets))
    return most + (2 + 2 * readout.compares) * count * state.nbytes


def _most(run: Callable[[], object]) -> int:
    tally = Tally()
    with tally:
        run()
    return tally.most

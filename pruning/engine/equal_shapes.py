"""Merged passes of one shape, in which the rounding of a branch does not depend on its company.

In half precision and on a GPU, the kernel of a matrix product, and so its order of additions, depends on the number
of rows. If each merged pass is filled up to the same number of branches, the kernel is always the same. It must
also treat all rows alike, wherever they stand and whatever the others are. Most kernels do, but none promises it,
so this is checked once for each shape. He et al. (2025, "Defeating Nondeterminism in LLM Inference") describe the
kernels that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruning.engine.logprobs import LIKELIHOOD, Projection, read_out
from pruning.engine.prefix_tree import model_entry
from pruning.models.block_probe import find_blocks
from pruning.models.blocks import BlockInputs
from pruning.models.units import find_chain

if TYPE_CHECKING:
    from pruning.engine.batching import Batch
    from pruning.models.loader import LanguageModel


def treats_branches_alike(
    model: LanguageModel, batch: Batch, unit: str, copies: int, projection: Projection
) -> bool:
    """Whether a branch gets the same bits wherever it stands among `copies` branches, whatever the others are.

    One unit of each kind, and the head, are run on four arrangements of states of one batch. Experts never do: how
    many rows an expert gets depends on the other branches.
    """
    if _has_experts(model.module.config.to_dict()):
        return False
    chain, cache = find_chain(model.module, unit), dict[int, BlockInputs]()
    states = _different(model_entry(model, batch, 1, cache).hidden, copies)
    entry = model_entry(model, batch, copies, cache)

    def read(merged: Tensor) -> Tensor:
        flat = [state.flatten(0, 1)[batch.indices.to(state.device)] for state in merged.tensor_split(copies)]
        return read_out(LIKELIHOOD, projection, torch.cat(flat), None, batch.targets.repeat(copies))

    units = [partial(chain.run, index, entry=entry) for index in _kinds(model, unit)]
    return all(_alike(run, states) for run in units) and _alike(read, states)


def _kinds(model: LanguageModel, unit: str) -> list[int]:
    """The first unit of each kind: its block's class, its weights' shapes and places, and its kind of attention."""
    blocks, chain = find_blocks(model.module).modules, find_chain(model.module, unit)
    layers = getattr(model.module.config.get_text_config(decoder=True), "layer_types", None) or []
    kinds: dict[object, int] = {}
    for index in range(len(chain)):
        block = chain.sublayers[index].block if chain.sublayers else index
        shapes = tuple((weight.shape, weight.dtype, weight.device) for weight in chain.weights(index))
        kinds.setdefault((type(blocks[block]), shapes, *layers[block : block + 1]), index)
    return list(kinds.values())


def _has_experts(config: Mapping[Any, Any]) -> bool:
    return any(
        _has_experts(value) if isinstance(value, dict) else bool("expert" in str(name) and value)
        for name, value in config.items()
    )


def _different(hidden: Tensor, copies: int) -> list[Tensor]:
    """A state, and others of its size that differ from it."""
    noise = torch.Generator().manual_seed(0)
    others = [torch.randn(hidden.shape, generator=noise).to(hidden) * hidden.std() for _ in range(copies - 1)]
    return [hidden, *others]


def _alike(run: Callable[[Tensor], Tensor], states: Sequence[Tensor]) -> bool:
    """Whether a state gets the same result in its place, one place further, in reverse, and among its like."""
    count = len(states)

    def results(order: Sequence[int]) -> list[Tensor]:
        return list(run(torch.cat([states[number] for number in order])).tensor_split(count))

    straight = results(range(count))
    for order in ([*range(1, count), 0], [*reversed(range(count))], [0] * count):
        if not all(
            torch.equal(straight[number], got) for number, got in zip(order, results(order), strict=True)
        ):
            return False
    return True

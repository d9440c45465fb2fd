"""Objectives on tiny models, and simple reference computations of their inputs, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import interleaved
from pruning.core.mask import Mask
from pruning.core.scoring import Score
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.objective import Loss, Objective
from tests.helpers.architectures import N_BLOCKS, build, without
from tests.helpers.rows import item_rows, language_model, text_rows

DENSE = Mask(N_BLOCKS)
SINGLES = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)]
MASKS = [DENSE, *SINGLES, Mask(N_BLOCKS, (1, 2)), Mask(N_BLOCKS, (0, 3, 5)), Mask(N_BLOCKS, (1, 2, 3, 5))]


def samples(kind: str, count: int = 6) -> Samples:
    """Random samples: windows of 3 to 14 tokens, items with 2 to 4 choices, or both."""
    text = Samples("text", "windows", text_rows(count), 0)
    items = Samples("items", "items", item_rows(count + 1), 0)
    if kind == "both":
        units = interleaved(text.units, items.units)
        return Samples("both", "both", tuple(row for unit in units for row in unit), 0)
    return text if kind == "text" else items


def model(name: str = "llama", dtype: torch.dtype = torch.float64) -> Any:
    return build(name).to(dtype)


def bound(objective: Objective, module: Any, data: Samples, **settings: Any) -> Loss:
    return objective.bind(Forward(language_model(module), **settings), data)


def scores(loss: Loss, masks: Sequence[Mask]) -> dict[Mask, Score]:
    states = {score.mask: score for score in loss(masks)}
    assert set(states) == set(masks)
    return states


def plain_states(module: Any, row: Row) -> list[np.ndarray]:
    """The hidden states (T, D) before each block and after the last one, from hooks on a forward pass."""
    states: list[torch.Tensor] = []
    blocks = find_blocks(module).modules

    def before(_: Any, args: Any, kwargs: Any) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(_: Any, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(after))
    with torch.no_grad():
        module(input_ids=torch.tensor([row.input_ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [state[0].double().numpy() for state in states]


def plain_distributions(module: Any, dropped: tuple[int, ...], row: Row) -> np.ndarray:
    """ln p (positions, V) at the positions that predict a row's scored tokens; blocks are physically removed."""
    smaller = without(module, dropped).to(module.dtype) if dropped else module
    with torch.no_grad():
        logits = smaller(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0].double()
    start, stop = row.span
    return torch.log_softmax(logits, -1)[start - 1 : stop - 1].numpy()


def idle(module: Any, index: int) -> Any:
    """Let block `index` of a Llama add nothing to the hidden state; returns the Llama."""
    block = find_blocks(module).modules[index]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr]
        block.mlp.down_proj.weight.zero_()  # type: ignore[union-attr]
    return module

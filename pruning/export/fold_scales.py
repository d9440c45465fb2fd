"""Fold a compensation into weights: scales of the residual stream become scales of the blocks' outputs.

In the engine, a dropped block i multiplies the residual stream by s_i. If a block normalises its input, the block's
output does not depend on the stream's scale. Let c be the product of s_i over the dropped blocks before a kept block.
If each kept block adds 1/c of its output, the stream is 1/c of the engine's stream. The norm before the vocabulary
projection removes this factor.
The embeddings, and a vocabulary projection tied to them, do not change. The fold is exact except for the norms'
epsilon and rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask

# ATTENTION and MLP match the name of a last projection: the part of a tensor's name after the block number.
ATTENTION = re.compile(
    r"(.*\.)?(self_attn|attn|attention|self_attention)\.(o_proj|out_proj|c_proj|dense|wo)\.\w+"
)
MLP = re.compile(r"(.*\.)?(down_proj|c_proj|fc2|fc_out|dense_4h_to_h|w2)(\.\w+|_bias)?")
INPUT_NORM = re.compile(r"(input_layernorm|ln_1|self_attn_layer_norm|norm_1|attention_norm)\.\w+")
FINAL_NORM = re.compile(r"(.*\.)?(norm|ln_f|final_layer_norm|final_layernorm|norm_f)\.weight")
# Gemma 2 and 3 normalise the output of each sub-layer. These norms multiply by 1 + weight; the fold scales this sum.
SANDWICH = re.compile(r"(post_attention_layernorm|post_feedforward_layernorm)\.weight")
SANDWICHED = ("gemma2", "gemma3", "gemma3_text")
# Settings with which a block does not normalise its input, or adds to the output of its norm.
UNNORMALISED = {"do_layer_norm_before": False, "apply_residual_connection_post_layernorm": True}
ADD_TO_NORM = ("minimax",)  # each block adds to the output of its norm, not to the input of the norm


@dataclass(frozen=True)
class Fold:
    """The factor on the output of each block; 1 leaves the block unchanged. `factors` has one entry per block."""

    factors: tuple[float, ...]
    sandwich: bool = False

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """The tensor to write for a block's tensor; `block` is the old number, and `tail` is the rest of the name."""
        if (factor := self.factor(block, tail)) == 1.0:
            return tensor
        return (tensor.float() + 1) * factor - 1 if self.sandwich else tensor.float() * factor

    def factor(self, block: int, tail: str) -> float:
        """The factor on a block's tensor, or on 1 + the tensor of a norm; 1 for a tensor that does not change."""
        patterns = [SANDWICH] if self.sandwich else [ATTENTION, MLP]
        scaled = block < len(self.factors) and any(pattern.fullmatch(tail) for pattern in patterns)
        return self.factors[block] if scaled else 1.0


def check_scales(scales: Sequence[float], mask: Mask) -> None:
    """Raise InputError unless each block has a factor, and the dropped blocks' factors are positive and finite."""
    if len(scales) != mask.n_blocks:
        raise InputError(
            f"{len(scales)} scales for a model of {mask.n_blocks} blocks: give one for each block."
        )
    if wrong := [i for i in mask.dropped if not (math.isfinite(scales[i]) and scales[i] > 0)]:
        raise InputError(f"the scales of blocks {wrong} are not positive finite numbers.")


def plan_fold(
    config: Any, names: Iterable[tuple[int, str]], others: Iterable[str], mask: Mask, scales: Sequence[float]
) -> Fold:
    """The fold of `scales`, which has one entry for each block; only the entries of dropped blocks have an effect.

    `names` has (block, tail) for each tensor of a block, and `others` has the names of all other tensors. Raises
    InputError if it is not certain that the architecture allows the fold.
    """
    check_scales(scales, mask)
    factors, stream = [], 1.0
    for block in range(mask.n_blocks):
        factors.append(1.0 if block in mask.dropped else 1.0 / stream)
        stream *= scales[block] if block in mask.dropped else 1.0
    text = config.get_text_config(decoder=True)
    tails: dict[int, list[str]] = {}
    for block, tail in names:
        tails.setdefault(block, []).append(tail)
    if why := _why_not(text, tails, list(others), [i for i in mask.kept if factors[i] != 1.0]):
        raise InputError(f"the compensation cannot be folded into a {text.model_type} model: {why}.")
    return Fold(tuple(factors), text.model_type in SANDWICHED)


def _why_not(
    text: Any, tails: dict[int, list[str]], others: Sequence[str], blocks: Sequence[int]
) -> str | None:
    """Why it is not certain that these blocks' outputs can be scaled; None if it is certain."""
    if text.model_type in ADD_TO_NORM:
        return "its blocks add to the outputs of their norms"
    for name, value in UNNORMALISED.items():
        if getattr(text, name, None) is value:
            return f"with {name}={value} its blocks do not normalise the residual stream"
    if not any(FINAL_NORM.fullmatch(name) for name in others):
        return "no norm before its vocabulary projection is recognised"
    sandwich = text.model_type in SANDWICHED
    for block in blocks:
        names = tails.get(block, [])
        if not any(INPUT_NORM.fullmatch(tail) for tail in names):
            return f"no norm at the input of block {block} is recognised"
        if not sandwich and any("post_feedforward" in tail or "post_mlp" in tail for tail in names):
            return f"the norms after the sub-layers of block {block} are not supported"
        wanted = [SANDWICH] if sandwich else [ATTENTION, MLP]
        if not all(any(pattern.fullmatch(tail) for tail in names) for pattern in wanted):
            return f"the last projections of block {block} are not recognised"
    return None

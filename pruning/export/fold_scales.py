"""Fold a compensation into weights: scales of the residual stream become scales of what blocks add to it.

In the engine, a dropped block i multiplies the residual stream by s_i. A block that normalises its input adds the
same whatever the stream's scale is, so the stream may be kept smaller by c = the product of the s_i so far, if
every later block adds 1/c of what it added; the norm before the vocabulary takes out what is left. Neither the
embeddings nor a vocabulary projection tied to them are touched. Exact but for the norms' epsilon and rounding.
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

# The last projections of attention and MLP, by their names in checkpoints. A tail starts behind the block's number.
ATTENTION = re.compile(
    r"(.*\.)?(self_attn|attn|attention|self_attention)\.(o_proj|out_proj|c_proj|dense|wo)\.\w+"
)
MLP = re.compile(r"(.*\.)?(down_proj|c_proj|fc2|fc_out|dense_4h_to_h|w2)(\.\w+|_bias)?")
INPUT_NORM = re.compile(r"(input_layernorm|ln_1|self_attn_layer_norm|norm_1|attention_norm)\.\w+")
FINAL_NORM = re.compile(r"(.*\.)?(norm|ln_f|final_layer_norm|final_layernorm|norm_f)\.weight")
# Gemma 2 and 3 normalise what a sub-layer returns, so that its scale is the norm's, which multiplies by 1 + weight.
SANDWICH = re.compile(r"(post_attention_layernorm|post_feedforward_layernorm)\.weight")
SANDWICHED = ("gemma2", "gemma3", "gemma3_text")
# Settings under which a block's input is not normalised, or the stream is not what the norm took in.
UNNORMALISED = {"do_layer_norm_before": False, "apply_residual_connection_post_layernorm": True}
OTHERWISE = ("minimax",)  # what its blocks add to is the norm's output


@dataclass(frozen=True)
class Fold:
    """By how much the output of each block is multiplied; 1 where nothing is to be done. `factors` has N entries."""

    factors: tuple[float, ...]
    sandwich: bool = False

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """A tensor of a block, named by what follows the block's (old) number, as it is to be written."""
        factor = self.factors[block] if block < len(self.factors) else 1.0
        if factor == 1.0:
            return tensor
        if self.sandwich:
            return (tensor.float() + 1) * factor - 1 if SANDWICH.fullmatch(tail) else tensor
        return tensor.float() * factor if ATTENTION.fullmatch(tail) or MLP.fullmatch(tail) else tensor


def check_scales(scales: Sequence[float], mask: Mask) -> None:
    """Raise InputError unless there is one positive, finite factor for each block."""
    if len(scales) != mask.n_blocks:
        raise InputError(
            f"{len(scales)} scales for a model of {mask.n_blocks} blocks: one is needed for each."
        )
    if wrong := [i for i in mask.dropped if not (math.isfinite(scales[i]) and scales[i] > 0)]:
        raise InputError(f"the scales of blocks {wrong} are not positive finite numbers.")


def plan_fold(
    config: Any, names: Iterable[tuple[int, str]], others: Iterable[str], mask: Mask, scales: Sequence[float]
) -> Fold:
    """The fold for one factor a block; only those of dropped blocks count.

    `names` are (block, tail) of the blocks' tensors, `others` all other tensors. Raises InputError where the
    architecture is not understood well enough.
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
    """Why these blocks' outputs cannot be scaled for certain; None if they can."""
    if text.model_type in OTHERWISE:
        return "its blocks add to what their norms return"
    for name, value in UNNORMALISED.items():
        if getattr(text, name, None) is value:
            return f"with {name}={value} its blocks do not normalise what they add to"
    if not any(FINAL_NORM.fullmatch(name) for name in others):
        return "no norm before its vocabulary projection is known"
    sandwich = text.model_type in SANDWICHED
    for block in blocks:
        own = tails.get(block, [])
        if not any(INPUT_NORM.fullmatch(tail) for tail in own):
            return f"no norm at the input of block {block} is known"
        if not sandwich and any("post_feedforward" in tail or "post_mlp" in tail for tail in own):
            return f"the norms behind the sub-layers of block {block} are not known"
        wanted = [SANDWICH] if sandwich else [ATTENTION, MLP]
        if not all(any(pattern.fullmatch(tail) for tail in own) for pattern in wanted):
            return f"the last projections of block {block} are not known"
    return None

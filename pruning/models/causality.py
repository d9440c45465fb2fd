"""Check that a model is causal: a token must not change the logits of earlier tokens.

A masked language model such as BERT also returns logits and a finite "perplexity". Each of its predictions has seen
the token that it predicts, so these numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError

IDS = ((1, 2, 3, 4),)
CHANGED = ((1, 2, 3, 1),)  # another last token
# Only for models whose gradient cannot be computed: a change of the earlier logits, relative to the largest logit,
# that can still be rounding. A trained bidirectional model changes its logits by tens of percent.
ROUNDING = 0.05


def check_causal(model: nn.Module, logits: Tensor, device: torch.device) -> None:
    """Raise UnskippableError unless the last token leaves the logits of earlier tokens unchanged.

    `logits` (1, T, V) are those of IDS. One more forward pass is run. Its earlier logits are bit for bit the same in
    a causal model without experts, whatever the precision: the shapes are the same, and masked positions have the
    weight 0. Only experts round differently, since the tokens are grouped differently. If the logits differ, a
    gradient decides: in a causal model, the gradient of earlier logits with respect to a later token is exactly 0.
    """
    with torch.no_grad():
        other = logits_of(model, torch.tensor(CHANGED, device=device))
    before, after = logits[:, :-1].nan_to_num(), other[:, :-1].nan_to_num()
    if torch.equal(before, after) or not _depends(model, device, before, after):
        return
    raise UnskippableError(
        f"{type(model).__name__} is not a causal language model: another last token changes the logits of the tokens "
        "before it, so it has no perplexity. Give a model that predicts the next token."
    )


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (B, T, V) of token ids (B, T), without a cache."""
    output: Any = model(input_ids=ids, use_cache=False)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _depends(model: nn.Module, device: torch.device, before: Tensor, after: Tensor) -> bool:
    """Whether earlier logits depend on the last token, by the gradient; without one, by the size of the change."""
    # A gradient would keep all offloaded weights in memory.
    if any(p.device.type == "meta" for p in model.parameters()):
        return _large(before, after)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _leaf(model) as embedded:
            logits = logits_of(model, torch.tensor(IDS, device=device))
            earlier = logits[:, :-1].float().square().sum()
            gradients = torch.autograd.grad(earlier, embedded, allow_unused=True)
    except (RuntimeError, NotImplementedError):  # a kernel without a backward pass
        return _large(before, after)
    return any(bool(one[:, -1].nan_to_num().any()) for one in gradients if one is not None)


def _large(before: Tensor, after: Tensor) -> bool:
    return bool((after - before).abs().max() > ROUNDING * before.abs().max())


@contextmanager
def _leaf(model: Any) -> Iterator[list[Tensor]]:
    """Within this context, the embeddings (B, T, D) of a forward pass are a leaf of the graph, put into the list."""
    embedded: list[Tensor] = []

    def detach(_module: Any, _args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(detach)
    try:
        yield embedded
    finally:
        handle.remove()

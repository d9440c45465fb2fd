"""A part of a model's vocabulary, which bounds the log-likelihoods of the whole one.

The log-likelihood of a token x is ln p(x) = z_x - ln sum over all tokens v of exp z_v, with the logits z. A sum over
some of the tokens is smaller. So for every set S of tokens that x is in,

    ln p(x)  <=  z_x - ln sum over v in S of exp z_v

The right side needs the projection to S only. It is close if S has the tokens that are likely in the samples. So S
has the tokens with most of the dense model's probability, summed over all scored positions, and all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.distributed import collectives
from pruning.engine.logprobs import Distributions, Projection, Readout
from pruning.models.blocks import head
from pruning.models.float32_products import Float32Linear

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

PROBABILITY = 0.98  # share of the dense model's probability that the part should have
MOST = 8  # the part has at most one of so many tokens, and those that follow


@dataclass(frozen=True, eq=False)
class PartialHead:
    """The projection of a model to some `tokens` (K,), sorted; `layer` has their rows of the output layer."""

    module: Any
    tokens: Tensor
    layer: nn.Linear

    def of(self, whole: Projection) -> Projection:
        """The projection to the tokens of this part."""
        return replace(whole, head=self._logits, vocabulary=len(self.tokens))

    def places(self, targets: Tensor) -> Tensor:
        """Where tokens stand in this part."""
        return torch.searchsorted(self.tokens, targets.to(self.tokens.device))

    def _logits(self, hidden: Tensor) -> Tensor:
        with _output_layer(self.module, self.layer):
            return head(self.module, hidden)


def partial_head(module: Any, rows: Sequence[Row], read: Callable[[Readout], None]) -> PartialHead | None:
    """The part of a model's vocabulary that matters for some rows; None if its output layer is not an ordinary one.

    `read` applies a readout to the dense model at all scored positions of the rows.
    """
    output = module.get_output_embeddings()
    usable = type(output) in (nn.Linear, Float32Linear) and output.weight.device.type != "meta"
    if not usable or hasattr(output, "_hf_hook"):
        return None
    targets = {token for row in rows for token in row.input_ids[row.span[0] : row.span[1]]}
    tokens = torch.tensor(sorted({*_likely(_probabilities(read, len(output.weight))), *targets}))
    tokens = tokens.to(output.weight.device)
    with torch.no_grad():
        layer = nn.Linear(1, 1, bias=output.bias is not None)
        layer.weight = nn.Parameter(output.weight[tokens], requires_grad=False)
        if output.bias is not None:
            layer.bias = nn.Parameter(output.bias[tokens], requires_grad=False)
    layer.in_features, layer.out_features = output.in_features, len(tokens)
    layer.__class__ = type(output)  # multiplies as the whole layer does
    return PartialHead(module, tokens, layer)


def _probabilities(read: Callable[[Readout], None], vocabulary: int) -> NDArray[np.float64]:
    """The dense model's probability (vocabulary,) of each token, summed over all scored positions."""
    total = torch.zeros(vocabulary, dtype=torch.float64)

    def add(dense: Distributions, _: Distributions, targets: Tensor) -> Tensor:
        total.add_(dense.probabilities.sum(0).double().cpu())
        return dense.of(targets)

    read(Readout(add))
    return collectives.all_sum(total.numpy())


def _likely(probabilities: NDArray[np.float64]) -> list[int]:
    """The fewest tokens that have the share PROBABILITY, but at most one of MOST tokens."""
    order = np.argsort(-probabilities, kind="stable")
    shares = np.cumsum(probabilities[order]) / probabilities.sum()
    count = min(int(np.searchsorted(shares, PROBABILITY)) + 1, len(order) // MOST)
    return [int(token) for token in order[:count]]


@contextmanager
def _output_layer(module: Any, layer: nn.Module) -> Iterator[None]:
    whole = module.get_output_embeddings()
    module.set_output_embeddings(layer)
    try:
        yield
    finally:
        module.set_output_embeddings(whole)

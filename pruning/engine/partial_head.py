"""A part of a model's vocabulary, which bounds values of the whole one.

The log-likelihood of a token x is ln p(x) = z_x - ln sum over all tokens v of exp z_v, with the logits z. A sum over
some of the tokens is smaller. So for every set S of tokens that x is in,

    ln p(x)  <=  z_x - ln sum over v in S of exp z_v

Let p(S) be the probability that p gives to S, and p_S the distribution of p within S. The chain rule divides the
divergence of two distributions p and q into that of the probabilities of S, and those within and outside of S, which
are 0 or more. So

    KL(p || q)  >=  p(S) * KL(p_S || q_S)

The right sides need the projection to S only, and p(S) of the dense model, which is known. They are close if S has
the tokens that are likely in the samples. So S has the tokens with most of the dense model's probability, summed over
all scored positions, and all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.distributed import collectives
from pruning.engine.logprobs import Distributions, Projection, Readout
from pruning.engine.vocabulary_sums import NEGLIGIBLE
from pruning.models.blocks import head
from pruning.models.float32_products import Float32Linear

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

PROBABILITY = 0.98  # share of the dense model's probability that the part should have
MOST = 8  # the part has at most one of so many tokens, and those that follow
MULTIPLE = 1024  # products with other numbers of columns can take twice as long
PIECE = 64  # positions whose probabilities are computed at a time


@dataclass(frozen=True, eq=False)
class PartialHead:
    """The projection of a model to some `tokens` (K,), sorted."""

    module: Any
    tokens: Tensor

    @cached_property
    def layer(self) -> nn.Linear:
        """The rows of these tokens in the model's output layer."""
        output = self.module.get_output_embeddings()
        with torch.no_grad():
            layer = nn.Linear(1, 1, bias=output.bias is not None)
            layer.weight = nn.Parameter(output.weight[self.tokens], requires_grad=False)
            if output.bias is not None:
                layer.bias = nn.Parameter(output.bias[self.tokens], requires_grad=False)
        layer.in_features, layer.out_features = output.in_features, len(self.tokens)
        layer.__class__ = type(output)  # multiplies as the whole layer does
        return layer

    def release(self) -> None:
        """Free the memory of `layer`, which is made again if it is needed."""
        self.__dict__.pop("layer", None)

    def of(self, whole: Projection) -> Projection:
        """The projection to the tokens of this part."""
        return replace(whole, head=self._logits, vocabulary=len(self.tokens))

    def places(self, targets: Tensor) -> Tensor:
        """Where tokens stand in this part."""
        return torch.searchsorted(self.tokens, targets.to(self.tokens.device))

    def _logits(self, hidden: Tensor) -> Tensor:
        with _output_layer(self.module, self.layer):
            return head(self.module, hidden)


@dataclass
class Parts:
    """The part of the vocabulary that serves some rows, for each tuple of rows that was asked for.

    Only the part that was used last keeps its weights.
    """

    of: dict[tuple[Row, ...], PartialHead | None] = field(default_factory=dict)
    last: PartialHead | None = None

    def get(self, rows: tuple[Row, ...], make: Callable[[], PartialHead | None]) -> PartialHead | None:
        """The part for some rows, made at the first use."""
        if rows not in self.of:
            self.of[rows] = make()
        if self.last is not self.of[rows]:
            self.release()
        self.last = self.of[rows]
        return self.last

    def release(self) -> None:
        """Free the memory of weights; they are made again if they are needed."""
        if self.last is not None:
            self.last.release()


def partial_head(module: Any, rows: Sequence[Row], read: Callable[[Readout], None]) -> PartialHead | None:
    """The part of a model's vocabulary that matters for some rows; None if its output layer is unusual.

    `read` applies a readout to the dense model at the scored positions of the rows.
    """
    output = module.get_output_embeddings()
    usable = type(output) in (nn.Linear, Float32Linear) and output.weight.device.type != "meta"
    if not usable or hasattr(output, "_hf_hook"):
        return None
    total = torch.zeros(len(output.weight), dtype=torch.float64)

    def add(dense: Distributions, _: Distributions, __: Tensor) -> Tensor:
        pieces = torch.split(dense.logits, PIECE), torch.split(dense.log_total[:, None], PIECE)
        for logits, log_total in zip(*pieces, strict=True):
            probabilities = (logits.float() - log_total.float()).clamp_(min=NEGLIGIBLE).exp_()
            total.add_(probabilities.sum(0).double().cpu())
        return dense.log_total

    read(Readout(add))
    targets = {token for row in rows for token in row.input_ids[row.span[0] : row.span[1]]}
    tokens = torch.tensor(_chosen(collectives.all_sum(total.numpy()), targets))
    return PartialHead(module, tokens.to(output.weight.device))


def _chosen(probabilities: NDArray[np.float64], targets: Collection[int]) -> list[int]:
    """The tokens of the part, sorted: `targets`, and the fewest tokens with the share PROBABILITY, or 1 of MOST.

    More of the likely ones are added to make the number of tokens a multiple of MULTIPLE.
    """
    order = np.argsort(-probabilities, kind="stable")
    shares = np.cumsum(probabilities[order]) / probabilities.sum()
    count = min(int(np.searchsorted(shares, PROBABILITY)) + 1, len(order) // MOST)
    tokens = {*targets, *order[:count].tolist()}
    if len(tokens) > MULTIPLE:
        others = (token for token in order[count:].tolist() if token not in tokens)
        tokens |= {*islice(others, -len(tokens) % MULTIPLE)}
    return sorted(tokens)


@contextmanager
def _output_layer(module: Any, layer: nn.Module) -> Iterator[None]:
    whole = module.get_output_embeddings()
    module.set_output_embeddings(layer)
    try:
        yield
    finally:
        module.set_output_embeddings(whole)

"""Compute values from next-token distributions, for a limited number of positions at a time.

A vocabulary has 50,000 to 260,000 tokens, so memory is the limit here, not arithmetic. Positions are projected to
logits in groups. Each group is so large that reading the head's weights takes only a small part of the time. On a
CPU, the logits are normalised in smaller groups, which fit its cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pruning.models.blocks import head

# Bytes of float32 logits that are projected at a time, and normalised at a time, for each kind of device. If too
# few positions are projected, reading the weights takes most of the time. If the logits of too many are normalised,
# they do not fit a CPU's cache.
PROJECTED = {"cpu": 1 << 29, "cuda": 1 << 29}
NORMALISED = {"cpu": 1 << 20, "cuda": 1 << 29}
# exp(-70) is about 4e-31: a whole vocabulary of such terms does not change the sum, in which the highest logit
# has the term 1. Much smaller shares of the sum would be denormal numbers, with which a CPU is 20 times slower.
NEGLIGIBLE = -70.0

Head = Callable[[Tensor], Tensor]  # maps hidden states (m, D) to logits (m, V), for any m


@dataclass(frozen=True)
class Projection:
    """Maps hidden states to logits over `vocabulary` tokens."""

    head: Head
    vocabulary: int

    def compared_at_once(self, device: str) -> int:
        """The number of positions computed at a time if the dense model's distributions are in memory as well."""
        return max(1, positions_at_once(device, self.vocabulary) // 4)


@dataclass(frozen=True, eq=False)
class PartialHead:
    """A model's head that computes the logits of only some tokens, the K sorted `tokens`; see `bounds.py`."""

    module: Any
    tokens: Tensor

    @cached_property
    def layer(self) -> nn.Linear:
        """A linear layer that has only the rows of the model's output layer that belong to `tokens`."""
        output = self.module.get_output_embeddings()
        with torch.no_grad():
            layer = nn.Linear(1, 1, bias=output.bias is not None)
            layer.weight = nn.Parameter(output.weight[self.tokens], requires_grad=False)
            if output.bias is not None:
                layer.bias = nn.Parameter(output.bias[self.tokens], requires_grad=False)
        layer.in_features, layer.out_features = output.in_features, len(self.tokens)
        layer.__class__ = type(output)  # multiplies as the whole layer does
        return layer

    def of(self, whole: Projection) -> Projection:
        """The projection `whole`, limited to the logits of `tokens`."""

        def project(hidden: Tensor) -> Tensor:
            layer, output = self.layer, self.module.get_output_embeddings()
            self.module.set_output_embeddings(layer)
            try:
                return head(self.module, hidden)
            finally:
                self.module.set_output_embeddings(output)

        return replace(whole, head=project, vocabulary=len(self.tokens))

    def places(self, targets: Tensor) -> Tensor:
        """For each target token, its index in `tokens`."""
        return torch.searchsorted(self.tokens, targets.to(self.tokens.device))


@dataclass(frozen=True)
class Readout:
    """One value per position, computed from the next-token distributions at m positions.

    `value` is called with the pruned model's distributions, the dense model's distributions, and the m next
    tokens. If `compares` is false, no dense model is needed, and `value` gets the pruned model's distributions
    twice. If `part` is given, distributions cover only the tokens of this part of the vocabulary. If `compares`
    is also true, values are multiplied by the total probability that the dense model gives to these tokens.
    """

    value: Callable[[Distributions, Distributions, Tensor], Tensor]
    compares: bool = False
    part: PartialHead | None = None


LIKELIHOOD = Readout(lambda pruned, _, targets: pruned.take(targets))


def read_out(
    readout: Readout,
    projection: Projection,
    hidden: Tensor,
    dense: Sequence[Distributions] | None,
    targets: Tensor,
) -> Tensor:
    """The values (n,) of a readout, in float64, on the device of the head.

    `hidden` has the states of n positions, of shape (n, D), and `targets` the n next tokens. `dense` has the dense
    model's `distributions` at the same positions, or is None if the readout needs no dense model.
    """
    start, targets, values = 0, targets.to(hidden.device), []
    for number, pruned in enumerate(distributions(projection, hidden)):
        following = targets[start : start + len(pruned.logits)]
        start += len(following)
        reference = pruned if dense is None else dense[number]
        following = following.to(pruned.logits.device)  # the head may be on another GPU
        values.append(readout.value(pruned, reference, following))
    return torch.cat(values).double()


def distributions(projection: Projection, hidden: Tensor) -> Iterator[Distributions]:
    """Yield the next-token distributions for hidden states of shape (n, D), one group of positions at a time."""
    device, vocabulary = hidden.device.type, projection.vocabulary
    most = positions_at_once(device, vocabulary)
    groups = max(1, math.ceil(len(hidden) / most))
    step = max(1, math.ceil(len(hidden) / groups))  # so the groups have nearly equal sizes
    piece = max(1, NORMALISED.get(device, 1 << 25) // (4 * vocabulary))
    for states in torch.split(hidden, step):
        logits = projection.head(states)
        wide = torch.promote_types(logits.dtype, torch.float32)
        yield from (Distributions(part.to(wide)) for part in torch.split(logits, piece))


def positions_at_once(device: str, vocabulary: int) -> int:
    """The number of positions whose logits are computed at a time."""
    return max(1, PROJECTED.get(device, 1 << 25) // (4 * vocabulary))


@dataclass(frozen=True)
class Distributions:
    """The next-token distributions at m positions, from logits (m, V) in float32 or float64.

    `torch.log_softmax` adds V float32 exponentials one after the other. With 150,000 tokens, its error is
    1e-5 nats and always has the same sign. So this class uses `Tensor.sum`, which adds them pairwise, and keeps
    the logarithm of the sum in float64. Its error is about 1e-7 nats, and it takes less time.
    """

    logits: Tensor

    @cached_property
    def highest(self) -> Tensor:
        """The highest logit of each position, of shape (m, 1)."""
        return self.logits.amax(-1, keepdim=True)

    @cached_property
    def _shares(self) -> tuple[Tensor, Tensor]:
        """`probabilities` and `log_sum`, from the same exponentials."""
        terms = (self.logits - self.highest).clamp_(min=NEGLIGIBLE).exp_()
        total = terms.sum(-1, keepdim=True)
        return terms.div_(total), total.double().log()

    @property
    def probabilities(self) -> Tensor:
        """The probabilities (m, V) of all tokens. None is a denormal number."""
        return self._shares[0]

    @property
    def log_sum(self) -> Tensor:
        """ln(sum of exp(logit - highest logit)) of each position, of shape (m, 1), in float64."""
        return self._shares[1]

    @property
    def log_total(self) -> Tensor:
        """ln(sum of exp(logit)) of each position, of shape (m,), in float64."""
        return (self.highest.double() + self.log_sum)[:, 0]

    def of(self, tokens: Tensor) -> Tensor:
        """The log-probability of one token per position, of shape (m,), in float64."""
        chosen = self.logits.gather(-1, tokens[:, None]).double()
        return (chosen - self.highest.double() - self.log_sum)[:, 0]

    def take(self, tokens: Tensor) -> Tensor:
        """Like `of`, but overwrites the logits to save memory. The distributions cannot be used again."""
        chosen, highest = self.logits.gather(-1, tokens[:, None]).double(), self.highest
        log_sum = _log_of_sum(self.logits.sub_(highest).clamp_(min=NEGLIGIBLE))
        return (chosen - highest.double() - log_sum)[:, 0]

    @cached_property
    def whole(self) -> Tensor:
        """The log-probabilities of all tokens, of shape (m, V), in the precision of the logits."""
        return (self.logits - self.highest).sub_(self.log_sum.to(self.highest.dtype))

    def take_whole(self) -> Tensor:
        """Like `whole`, but overwrites the logits, as `take` does."""
        below = self.logits.sub_(self.highest)
        return below.sub_(_log_of_sum(below.clamp(min=NEGLIGIBLE)).to(below.dtype))

    @cached_property
    def entropy(self) -> Tensor:
        """The entropy -(sum over tokens v of p(v) ln p(v)) of each position, of shape (m,), in nats."""
        return -(self.probabilities * self.whole).sum(-1)


def _log_of_sum(terms: Tensor) -> Tensor:
    """ln(sum of exp(term) over the last axis), of shape (m, 1), in float64. Overwrites the terms, of shape (m, V)."""
    return terms.exp_().sum(-1, keepdim=True).double().log_()

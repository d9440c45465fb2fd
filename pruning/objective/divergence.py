"""Divergence. Source: EvoPress (arXiv 2410.14649), whose search draws a fresh minibatch for each selection.

Here all masks are scored on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pruning.objective import Distributions, Forward, Loss, Samples, Tensor, mapped


@dataclass(frozen=True)
class Divergence:
    """Mean over scored positions of KL(dense || pruned), in nats.

    p_t and q_t are the next-token distributions of the dense model and the pruned model at position t:

        loss = mean over t of  sum over tokens v of  p_t(v) * (ln p_t(v) - ln q_t(v))

    The loss needs no right answers: it rewards agreement with the dense model, even if that model is wrong. The loss
    of the dense model is 0.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over windows or items, with one term per sample."""
        return between_distributions(forward, samples, _divergence, bounded=True)


def between_distributions(
    forward: Forward,
    samples: Samples,
    value: Callable[[Distributions, Distributions], Tensor],
    bounded: bool = False,
) -> Loss:
    """A loss: the mean over scored positions of `value(pruned, dense)`, a tensor (m,) for m positions.

    The term of a sample is the mean over its scored positions: those of a window, or of all answers of an
    item. If `bounded` is true, `value` must be the divergence, and the loss has bounds.
    """
    from pruning.engine.bounds import bounds
    from pruning.engine.head import Readout

    rows, readout = samples.rows, Readout(lambda pruned, dense, _: value(pruned, dense), compares=True)
    tokens = [sum(row.span[1] - row.span[0] for row in unit) for unit in samples.units]

    def means(sums: list[float]) -> list[float]:
        return [sum(values) / n for values, n in zip(samples.per_unit(sums), tokens, strict=True)]

    return Loss(
        samples.estimate(),
        lambda masks: mapped(forward.sums(rows, masks, readout), means),
        bounds=(lambda masks: mapped(bounds(forward, rows, masks, readout), means)) if bounded else None,
    )


def _divergence(pruned: Distributions, dense: Distributions) -> Tensor:
    import torch

    whole = pruned.take_whole()
    return torch.sub(dense.whole, whole, out=whole).mul_(dense.probabilities).sum(-1)

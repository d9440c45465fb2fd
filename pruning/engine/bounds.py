"""Bounds on the sum of a row's log-likelihoods or divergences, computed from a part of the vocabulary.

With the logits z, the log-likelihood of a token x is ln p(x) = z_x - ln sum over all tokens v of exp z_v. The
sum over only some tokens is smaller. So for every set S of tokens that contains x,

    ln p(x)  <=  z_x - ln sum over v in S of exp z_v

Now let p be the dense model's distribution, q a masked model's, p(S) the probability of S, and p_S the distribution p
within S. By the chain rule, KL(p || q) is a sum of three nonnegative terms: for p(S), within S, and outside S. So

    KL(p || q)  >=  p(S) * KL(p_S || q_S)

The right-hand sides need only the logits of S and the dense model's p(S), which is known. They are close to
the left-hand sides if S contains the likely tokens of the samples. So S contains all scored tokens, and the
tokens with the largest dense-model probability, summed over all scored positions.

If there is enough memory, the states after the last unit are kept. For a mask that the bounds do not rule out, the
exact sums then need only the head, not the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.core.mask import Mask
from pruning.engine import collectives
from pruning.engine.head import Distributions, PartialHead, Readout
from pruning.engine.prefix_tree import Ends
from pruning.models.products import Float32Linear

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward

PROBABILITY = 0.98  # share of the dense model's probability that the part of the vocabulary should have
MOST = 8  # besides the scored tokens, the part has at most 1 / MOST of the vocabulary
MULTIPLE = 1024  # products can take twice as long if the number of columns is not a multiple of this
SHARE = 0.5  # states after the last unit may take this share of the room for states


def bounds(
    forward: Forward, rows: Sequence[Row], masks: Sequence[Mask], readout: Readout
) -> Iterator[tuple[Mask, list[float], float]]:
    """Yields bounds on the values of `forward.sums`, from a partial head; nothing if `partial_head` gives None.

    If `readout` gives log-likelihoods, the bounds are upper bounds. If it gives the divergence from the dense
    model, they are lower bounds.
    """
    rows = tuple(rows)

    # If memory runs out, some positions are read again and count twice in the choice of tokens.
    def read_dense(readout: Readout) -> None:
        for _ in forward.sums(rows, [Mask(forward.n_blocks)], readout):
            pass

    if rows not in forward.parts:
        forward.parts.clear()
        forward.parts[rows] = partial_head(forward.model.module, rows, read_dense)
    if (part := forward.parts[rows]) is None:
        return
    # Keep states at the scored positions if those of all masks take at most SHARE of the room for states.
    forward.ends = None
    sizes = forward.memory_budget.sizes(rows, forward.beginnings.nbytes())
    batches = forward.batches(rows)
    tokens = sum(batch.ids.numel() for batch in batches)
    scored = sum(len(batch.targets) for batch in batches)
    if (reserved := len(masks) * sizes.kept * scored / tokens) <= SHARE * sizes.room:
        forward.ends = Ends(rows, batches, reserved)
    complete = False
    try:
        yield from forward.sums(rows, masks, replace(readout, part=part))
        complete = True
    finally:
        if complete and forward.ends is not None:
            forward.ends.masks = set(masks)
        else:
            forward.ends = None


def partial_head(module: Any, rows: Sequence[Row], read: Callable[[Readout], None]) -> PartialHead | None:
    """A head for the tokens that matter for `rows`; None if the output layer is not a linear layer in memory.

    `read` calls a readout with the dense model's distributions at the scored positions of the rows.
    """
    output = module.get_output_embeddings()
    usable = type(output) in (nn.Linear, Float32Linear) and output.weight.device.type != "meta"
    if not usable or hasattr(output, "_hf_hook"):
        return None
    total = torch.zeros(len(output.weight), dtype=torch.float64)

    def add(dense: Distributions, _: Distributions, __: Tensor) -> Tensor:
        total.add_(dense.probabilities.sum(0).double().cpu())
        return dense.log_total

    read(Readout(add))
    targets = {token for row in rows for token in row.input_ids[row.span[0] : row.span[1]]}
    tokens = torch.tensor(chosen_tokens(collectives.all_sum(total.numpy()), targets))
    return PartialHead(module, tokens.to(output.weight.device))


def chosen_tokens(probabilities: NDArray[np.float64], targets: Collection[int]) -> list[int]:
    """Sorted: `targets` and the likeliest tokens, up to the total probability PROBABILITY or 1 / MOST of all tokens.

    If these are more than MULTIPLE, the next likeliest tokens are added until MULTIPLE divides the number of tokens.
    """
    order = np.argsort(-probabilities, kind="stable")
    shares = np.cumsum(probabilities[order]) / probabilities.sum()
    count = min(int(np.searchsorted(shares, PROBABILITY)) + 1, len(order) // MOST)
    tokens = {*targets, *order[:count].tolist()}
    if len(tokens) > MULTIPLE:
        others = (token for token in order[count:].tolist() if token not in tokens)
        tokens |= {*islice(others, -len(tokens) % MULTIPLE)}
    return sorted(tokens)

"""Successive halving: heal several masks a little, keep the better half, heal these twice as long, and so on.

Jamieson and Talwalkar (arXiv 1502.07943, algorithm 1); DarwinLM (arXiv 2502.07780, section 3.2) selects pruned models
by short training in the same way. What a mask is judged by is its loss on held-out text after the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pruning.core.mask import Mask


class Trial(NamedTuple):
    """What one mask gave in one round.

    `heldout_loss` is its held-out loss in nats per token after `tokens` tokens. `trained` tokens of them, and
    `seconds`, were spent in this round; the beginning had been trained in the round before.
    """

    mask: Mask
    tokens: int
    heldout_loss: float
    trained: int
    seconds: float


@dataclass(frozen=True)
class Selection:
    """The rounds, each with the trials of the masks that took part, in their order."""

    rounds: tuple[tuple[Trial, ...], ...]

    @property
    def winner(self) -> Mask:
        """The mask with the lowest held-out loss in the last round; of equal ones, the earlier."""
        return _kept(self.rounds[-1], 1)[0]

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were made."""
        return [trial for one in self.rounds for trial in one]


def budgets(count: int, tokens: int) -> list[int]:
    """The tokens of each round for this number of masks; the first round has `tokens`, and each round doubles it."""
    found: list[int] = []
    while count > 1:
        found.append(tokens * 2 ** len(found))
        count = _half(count)
    return found


def halve(
    masks: Sequence[Mask],
    tokens: int,
    trial: Callable[[Mask, int, int], Trial],
    after: Callable[[Sequence[Mask]], None],
) -> Selection:
    """Select among at least two masks.

    `trial(mask, tokens, before)` heals a mask on `tokens` tokens, of which `before` is the budget of the round before
    (0 in the first). `after(masks)` is called at the end of a round with those that are left.
    """
    left, before, rounds = list(masks), 0, list[tuple[Trial, ...]]()
    for budget in budgets(len(masks), tokens):
        rounds.append(tuple(trial(mask, budget, before) for mask in left))
        left, before = _kept(rounds[-1], _half(len(left))), budget
        after(left)
    return Selection(tuple(rounds))


def _kept(trials: Sequence[Trial], count: int) -> list[Mask]:
    """The best masks, best first; of equal ones, the earlier."""
    return [trial.mask for trial in sorted(trials, key=lambda trial: trial.heldout_loss)[:count]]


def _half(count: int) -> int:
    return (count + 1) // 2

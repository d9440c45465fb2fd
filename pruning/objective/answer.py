"""Answer likelihood: how well the pruned model predicts the right answers of multiple-choice items.

Source: none. It is the margin (`margin.py`) without the wrong answers, and perplexity on answers instead of text: a
study can compare it with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.objective import Forward, Loss, Samples
from pruning.objective.perplexity import of_rows


@dataclass(frozen=True)
class Answer:
    """Mean over items of -s(right answer), in nats per token, with the score s(a) of `Margin`.

    Wrong answers are not read, so a mask costs less than for the margin. The loss is at least 0.
    """

    needs: ClassVar[str] = "items"
    bounded: ClassVar[bool] = True  # whether its loss has bounds

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over the right answers, with one term per item."""
        right = [next(row for row in unit if row.right) for unit in samples.units]
        return of_rows(forward, right, samples.estimate())

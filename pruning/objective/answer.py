"""Answer: perplexity of right answers instead of text. A study can compare it with perplexity and margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.objective import Forward, Loss, Samples
from pruning.objective.perplexity import of_rows


@dataclass(frozen=True)
class Answer:
    """Mean over items of -s(right answer), in nats per token, with the score s of `margin.py`. It is at least 0.

    This is the margin without its mean over wrong answers, which are not scored here. Source: none.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over the right answers, with one term per item."""
        right = [next(row for row in unit if row.right) for unit in samples.units]
        return of_rows(forward, right, samples.estimate())

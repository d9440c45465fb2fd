"""Measure both perplexity and zero-shot accuracy (`eval=full`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.evaluation import Data, Evaluation, Measured
from pruning.evaluation.tasks import EvalTask

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Full:
    """The metrics of `perplexity` and of `zeroshot`. The configuration passes `limit` to both evaluations."""

    perplexity: Any
    zeroshot: Any
    limit: int | None = None
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def files(self) -> tuple[str, ...]:
        """The local files of the corpora."""
        return tuple(self.perplexity.files())

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The windows of each corpus and the documents of each task."""
        return {**self.perplexity.data(tokenizer), **self.zeroshot.data(tokenizer)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on text windows, or the accuracy on a task."""
        part: Evaluation = self.zeroshot if isinstance(data, EvalTask) else self.perplexity
        return part.measure(forward, name, data, mask)

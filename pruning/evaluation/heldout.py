"""The embedded default: perplexity and accuracy on the held-out parts of the embedded text and items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.items import Items
from pruning.calibration.samples import Samples
from pruning.calibration.text import Text
from pruning.errors import InputError
from pruning.estimate import mean, standard_error
from pruning.evaluation import Data, Measured
from pruning.evaluation.text import described, perplexity

if TYPE_CHECKING:
    from pruning.forward import Forward
    from pruning.mask import Mask


@dataclass(frozen=True)
class Heldout:
    """The held-out parts of the embedded text and items: `samples` windows of `length` tokens, `items` items.

    Metrics: `ppl/heldout`, the exponential of the token-mean negative log-likelihood; `acc/heldout`, the
    fraction of items whose right answer has the highest mean token log-likelihood (what lm-eval calls
    acc_norm normalises by characters instead); and their standard errors over samples, `.../stderr`.
    """

    samples: int = 16
    length: int = 256
    items: int = 200
    seed: int = 0
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def files(self) -> tuple[str, ...]:
        """None."""
        return ()

    def data(self, tokenizer: Any) -> dict[str, Samples]:
        """The samples, by what is measured on them. Raises InputError where there are not so many."""
        try:
            return self._data(tokenizer)
        except InputError as error:
            text = str(error).replace("calibration.samples", "eval.samples or eval.items")
            raise InputError(text.replace("calibration.", "eval.")) from error

    def _data(self, tokenizer: Any) -> dict[str, Samples]:
        text = Text("pydoc", self.samples, self.length, self.seed, part="heldout")
        items = Items("commonsense", self.items, self.seed, part="heldout")
        return {"ppl/heldout": text.draw(tokenizer), "acc/heldout": items.draw(tokenizer)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """Perplexity on text, accuracy on items."""
        samples = cast(Samples, data)
        if samples.kind == "text":
            return Measured(perplexity(name, forward, samples, mask), described(samples))
        how = {"source": samples.source, "items": samples.count, "metric": "mean token log-likelihood"}
        return Measured(_accuracy(name, forward, samples, mask), how)


def _accuracy(name: str, forward: Forward, samples: Samples, mask: Mask) -> dict[str, float]:
    ((_, logliks, _),) = forward.loglikelihoods(samples.rows, [mask])
    hits = [_hit(scores, right) for scores, right in samples.answers(logliks)]
    return {name: mean(hits), f"{name}/stderr": standard_error(hits)}


def _hit(scores: list[float], right: int) -> float:
    """1 where the right answer scores highest; its share where several do, so that a collapsed model only guesses."""
    best = max(scores)
    return (scores[right] == best) / scores.count(best)

"""The default evaluation: perplexity and accuracy on the held-out parts of the embedded text and items."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.items import ItemDraw
from pruning.calibration.samples import Samples
from pruning.calibration.sources import PARTED, embedded_items, embedded_text
from pruning.calibration.text import WindowDraw
from pruning.core.errors import unknown
from pruning.core.estimate import mean, standard_error
from pruning.core.metric_names import with_error
from pruning.evaluation import Data, Measured
from pruning.evaluation.text import perplexity, terms_file

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heldout:
    """Use `samples` windows of `length` tokens and `items` items from the held-out parts of the embedded data.

    The metric `ppl/heldout` is the exponential of the mean negative log-likelihood per token, on `pydoc`. `texts`
    names further embedded texts, such as `wikipedia_sample`; each gives a metric `ppl/<name>`. The metric
    `acc/heldout` is the fraction of items whose right answer has the highest mean log-likelihood per token
    (lm-eval's acc_norm divides by characters instead). `<metric>/stderr` is a metric's standard error, estimated
    over the windows or items.
    """

    samples: int = 16
    length: int = 256
    items: int = 200
    seed: int = 0
    allow_overlap: bool = False
    texts: list[str] | None = None

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def files(self) -> tuple[str, ...]:
        """No files."""
        return ()

    def __post_init__(self) -> None:
        self._windows.check()
        self._items.check()
        for name in self.texts or ():
            if name not in (further := PARTED[1:]):
                raise unknown("text in eval.texts", name, further)

    def data(self, tokenizer: Any) -> dict[str, Samples]:
        """The samples of each metric, by its name. Raises InputError if there are too few windows or items."""
        names = {"ppl/heldout": "pydoc"} | {f"ppl/{name}": name for name in self.texts or ()}
        windows = {
            metric: self._windows.windows(embedded_text(name, "heldout"), tokenizer, name)
            for metric, name in names.items()
        }
        return windows | {
            "acc/heldout": self._items.rows(embedded_items("heldout"), tokenizer, "commonsense")
        }

    @property
    def _windows(self) -> WindowDraw:
        return WindowDraw(self.samples, self.length, self.seed, "eval")

    @property
    def _items(self) -> ItemDraw:
        return ItemDraw(self.items, self.seed, setting="eval.items")

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on text, or the accuracy on items."""
        samples = cast(Samples, data)
        log.info("evaluating %s with %s removed: %d samples", name, mask, samples.count)
        if samples.kind == "text":
            return perplexity(name, forward, samples, mask)
        return item_accuracy(name, forward, samples, mask)


def item_accuracy(name: str, forward: Forward, samples: Samples, mask: Mask) -> Measured:
    """The share of items whose right answer has the highest mean token log-likelihood, and its standard error.

    The log-likelihoods of all choices are kept.
    """
    ((_, logliks, _),) = forward.loglikelihoods(samples.rows, [mask])
    answers = list(samples.answers(logliks))
    hits = [_hit(scores, right) for scores, right in answers]
    how = {"source": samples.source, "items": samples.count, "metric": "mean token log-likelihood"}
    kept = {
        "loglikelihoods": [[float(f"{score:.7g}") for score in scores] for scores, _ in answers],
        "right": [right for _, right in answers],
    }
    metrics = with_error(name, mean(hits), standard_error(hits), len(hits))
    return Measured(metrics, how, terms_file(kept))


def _hit(scores: Sequence[float], right: int) -> float:
    """1 if only the right answer has the highest score, 1/n if n answers including the right one have it, else 0.

    So a collapsed model, which scores all answers equally, gets the accuracy of random guesses.
    """
    best = max(scores)
    return (scores[right] == best) / scores.count(best)

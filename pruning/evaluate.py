"""Measure a mask on data that no search ever saw: held-out perplexity and multiple-choice accuracy.

Every cell is measured both ways, whatever its objective was, and so is the dense model. A measurement
belongs to (model, evaluation data, mask) and is kept in `evaluation/`, so equal masks are measured once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning import files
from pruning.calibration.items import Items
from pruning.calibration.samples import Samples
from pruning.calibration.text import Text
from pruning.errors import InputError, LossError
from pruning.estimate import mean, standard_error
from pruning.mask import Mask
from pruning.objective.perplexity import Perplexity

if TYPE_CHECKING:
    from pruning.forward import Forward

HIGHEST = 700.0  # nats; the exponential of more is no float


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

    def measure(self, forward: Forward, data: Mapping[str, Samples], mask: Mask) -> dict[str, float]:
        """Metric names to values."""
        return {
            **_perplexity("ppl/heldout", forward, data["ppl/heldout"], mask),
            **_accuracy("acc/heldout", forward, data["acc/heldout"], mask),
        }


def check_disjoint(calibration: Samples, data: Mapping[str, Samples]) -> None:
    """Raise InputError where calibration and evaluation share items or runs of text."""
    for metric, samples in data.items():
        if shared := calibration.shared(samples):
            unit = "items" if samples.kind == "items" else "runs of tokens"
            raise InputError(
                f"the calibration data ({calibration.source}, {calibration.sha256[:12]}) and the data of "
                f"{metric} ({samples.source}, {samples.sha256[:12]}) share {shared} {unit}: a mask must not be "
                "chosen on the data that it is judged by. Choose other calibration data."
            )


@dataclass(frozen=True)
class Evaluator:
    """Measures masks of one model, each once, and remembers them in files."""

    evaluation: Heldout
    data: Mapping[str, Samples]
    forward: Forward
    folder: Path

    def __call__(self, mask: Mask) -> dict[str, float]:
        """The metrics of a mask."""
        name = hashlib.sha256(json.dumps(mask.to_json()).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if path.exists():
            metrics: dict[str, float] = files.read_json(path)["metrics"]
            return metrics
        metrics = self.evaluation.measure(self.forward, self.data, mask)
        if not all(map(math.isfinite, metrics.values())):
            raise LossError(
                f"the evaluation of blocks {list(mask.dropped)} removed is not finite: {metrics}."
            )
        files.write_json(path, {"mask": mask.to_json(), "metrics": metrics})
        return metrics


def digests(data: Mapping[str, Samples]) -> dict[str, str]:
    """What identifies the evaluation data: a metric's name to the SHA-256 of its samples."""
    return {metric: samples.sha256 for metric, samples in data.items()}


def _perplexity(name: str, forward: Forward, samples: Samples, mask: Mask) -> dict[str, float]:
    loss = Perplexity().bind(forward, samples)
    (score,) = loss([mask])
    perplexity = math.exp(min(score.loss, HIGHEST))
    # The delta method: d exp(x) = exp(x) dx.
    return {name: perplexity, f"{name}/stderr": perplexity * loss.estimate.error(score.samples)}


def _accuracy(name: str, forward: Forward, samples: Samples, mask: Mask) -> dict[str, float]:
    ((_, logliks, _),) = forward.loglikelihoods(samples.rows, [mask])
    hits = [_hit(scores, right) for scores, right in samples.answers(logliks)]
    return {name: mean(hits), f"{name}/stderr": standard_error(hits)}


def _hit(scores: list[float], right: int) -> float:
    """1 where the right answer scores highest; its share where several do, so that a collapsed model only guesses."""
    best = max(scores)
    return (scores[right] == best) / scores.count(best)

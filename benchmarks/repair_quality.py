"""Measure what repair regains of the loss that a mask costs: none, magnitude, diagonal, linear.

python -m benchmarks.repair_quality [WORD ...]       only the masks whose names contain one of the words

Masks of two models, over blocks and over sub-layers. The repairs are calibrated on windows of both embedded texts
(`calibration=mixed`) and measured on the held-out parts of both. All intervals are over the held-out windows, which
are the same for all repairs of a model. Writes benchmarks/repair.json.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from analysis.stats.components import IntervalEstimate
from analysis.stats.healed import PRUNED, HealedMask, State, regained
from analysis.stats.same_samples import WindowPairsLosses
from pruning.api.changes import repair_mask
from pruning.api.model import Draw, PrunableModel, draw_samples, load_model
from pruning.calibration.samples import Samples
from pruning.core import storage
from pruning.core.mask import Mask
from pruning.core.terminal import keep_pages
from pruning.engine.compensation import magnitudes
from pruning.engine.forward import Forward
from pruning.evaluation.heldout import Heldout
from pruning.objective.perplexity import Perplexity

RESULTS = Path(__file__).parent / "repair.json"
TEXTS = {"ppl/heldout": "pydoc", "ppl/wikipedia_sample": "wikipedia_sample"}
SAMPLES, LENGTH = 64, 128
log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Case:
    """A mask to repair, and what found it."""

    model: str
    mask: str
    found_by: str

    @property
    def name(self) -> str:
        """The model and the mask."""
        return f"{self.model}: {self.mask}"


CASES = (
    Case("smollm2", "5 14 25", "perplexity"),
    Case("smollm2", "4 5 13 14 25 26", "perplexity"),
    Case("smollm2", "13 14 15 16 17 18", "divergence"),
    Case("smollm2", "b4 b5 m6 a7 b14 m16 a17 m25 a26", "perplexity, sub-layers"),
    Case("gemma3_270m", "8 9", "divergence"),
    Case("gemma3_270m", "7 8 9 14", "divergence"),
    Case("gemma3_270m", "b7 b8 b9 a16 a17", "divergence, sub-layers"),
)


def main() -> None:
    """Repair the chosen masks and print a line for each repair and text."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_pages()
    torch.set_num_threads(1)
    words = sys.argv[1:]
    rows = storage.read_json(RESULTS) if words and RESULTS.exists() else []
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        rows = [row for row in rows if (row["model"], row["mask"]) != (case.model, case.mask)]
        for row in measured(case):
            rows.append(row)
            log.info("%s", "  ".join(str(value) for value in row.values()))
        storage.write_json(RESULTS, rows)


def measured(case: Case) -> Iterator[dict[str, object]]:
    """A row for each repair and text: perplexities, nats regained per token, and the share of the lost loss."""
    model = load_model(case.model)
    mask = Mask.parse(model.n_blocks, case.mask)
    heldout = Heldout(32, 128, texts=["wikipedia_sample"]).data(model.tokenizer)
    forward = Forward(model.language_model)
    calibration = draw_samples(model, "mixed", Draw(SAMPLES, LENGTH, 0, "repair_mask"), Perplexity())
    repaired = dict(_repaired(model, forward, mask, calibration))
    for metric, text in TEXTS.items():
        samples = heldout[metric]
        dense, pruned = (
            _losses(forward, samples, which) for which in (Mask(model.n_blocks, unit=mask.unit), mask)
        )
        for how, its in {"none": forward, **repaired}.items():
            after = pruned if its is forward else _losses(its, samples, mask)
            one, state = HealedMask(mask, dense=dense), State(kind=how)
            one.add(PRUNED, pruned, calibration.sha256)
            one.add(state, after, calibration.sha256)
            yield {
                "model": case.model,
                "mask": case.mask,
                "found_by": case.found_by,
                "text": text,
                "repair": how,
                "dense": round(float(np.exp(dense.mean())), 2),
                "perplexity": round(float(np.exp(after.mean())), 2),
                "nats": _paired(after - pruned),
                "share": None if how == "none" else _rounded(regained(one, state)),
            }


def _repaired(
    model: PrunableModel, forward: Forward, mask: Mask, calibration: Samples
) -> Iterator[tuple[str, Forward]]:
    """Forward passes of each repair."""
    yield "magnitude", forward.with_scales(magnitudes(forward, calibration.rows, mask.unit))
    for how in ("diagonal", "linear"):
        yield how, Forward(repair_mask(model, mask, calibration, how=how).language_model)


def _losses(forward: Forward, samples: Samples, mask: Mask) -> WindowPairsLosses:
    """The loss of each window, in nats per token."""
    ((_, losses, _),) = Perplexity().bind(forward, samples).terms([mask])
    return np.asarray(losses)


def _paired(differences: WindowPairsLosses) -> list[float]:
    """The mean difference, and the ends of its 95 percent interval over windows."""
    drawn = np.random.default_rng(0).choice(differences, (2000, len(differences))).mean(-1)
    return [round(float(x), 3) for x in (differences.mean(), *np.percentile(drawn, [2.5, 97.5]))]


def _rounded(found: IntervalEstimate) -> list[float]:
    return [round(x, 3) for x in (found.value, found.low, found.high)]


if __name__ == "__main__":
    main()

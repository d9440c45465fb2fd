"""Measure what repair regains of the loss that a mask costs: none, magnitude, linear.

python -m benchmarks.repair_quality [WORD ...]       only the masks whose names contain one of the words

Masks of two models, over blocks and over sub-layers. The repairs are calibrated on windows of both embedded texts
(`calibration=mixed`) and measured on the held-out parts of both. All intervals are over the held-out windows, which
are the same for all repairs of a model. Writes benchmarks/repair.json.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.stats.healed import PRUNED, HealedMask, State, regained
from pruning.api.calibration_data import draw_samples
from pruning.api.changes import repair_mask
from pruning.api.model import load_model
from pruning.calibration.samples import Samples
from pruning.core import storage
from pruning.core.mask import Mask
from pruning.core.terminal import keep_pages
from pruning.engine.dense_pass import magnitudes
from pruning.engine.forward import Forward
from pruning.evaluation.heldout import Heldout
from pruning.objective.likelihood import Perplexity

RESULTS = Path(__file__).parent / "repair.json"
TEXTS = {"ppl/heldout": "pydoc", "ppl/wikipedia_sample": "wikipedia_sample"}
SAMPLES, LENGTH = 64, 128
CASES = (  # model, mask, and what found it
    ("smollm2", "5 14 25", "perplexity"),
    ("smollm2", "4 5 13 14 25 26", "perplexity"),
    ("smollm2", "13 14 15 16 17 18", "divergence"),
    ("smollm2", "b4 b5 m6 a7 b14 m16 a17 m25 a26", "perplexity, sub-layers"),
    ("gemma3_270m", "8 9", "divergence"),
    ("gemma3_270m", "7 8 9 14", "divergence"),
    ("gemma3_270m", "b7 b8 b9 a16 a17", "divergence, sub-layers"),
)
log = logging.getLogger("benchmarks")


def main() -> None:
    """Repair the chosen masks and print a line for each repair and text."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_pages()
    torch.set_num_threads(1)
    words = sys.argv[1:]
    rows = storage.read_json(RESULTS) if words and RESULTS.exists() else []
    for model, mask, found_by in CASES:
        if words and not any(word in f"{model}: {mask}" for word in words):
            continue
        rows = [row for row in rows if (row["model"], row["mask"]) != (model, mask)]
        for row in measured(model, mask):
            rows.append({"model": model, "mask": mask, "found_by": found_by, **row})
            log.info("%s", "  ".join(str(value) for value in rows[-1].values()))
        storage.write_json(RESULTS, rows)


def measured(name: str, text: str) -> Iterator[dict[str, object]]:
    """A row for each repair and text: perplexities, nats regained per token, and the share of the lost loss."""
    model = load_model(name)
    mask = Mask.parse(model.n_blocks, text)
    heldout = Heldout(32, 128, texts=["wikipedia_sample"]).data(model.tokenizer)
    calibration = draw_samples(model, "mixed", Perplexity(), samples=SAMPLES, length=LENGTH)
    forward = Forward(model.language_model)
    repaired = {
        "none": forward,
        "magnitude": forward.with_scales(magnitudes(forward, calibration.rows, mask.unit)),
        "linear": Forward(repair_mask(model, mask, calibration).language_model),
    }
    for metric, source in TEXTS.items():
        samples = heldout[metric]
        dense = _losses(forward, samples, Mask(model.n_blocks, unit=mask.unit))
        pruned = _losses(forward, samples, mask)
        for how, its in repaired.items():
            after, share = _losses(its, samples, mask), None
            if how != "none":
                one, state = HealedMask(mask, dense=dense), State(kind=how)
                one.add(PRUNED, pruned, calibration.sha256)
                one.add(state, after, calibration.sha256)
                found = regained(one, state)
                share = [round(x, 3) for x in (found.value, found.low, found.high)]
            gained = after - pruned
            drawn = np.random.default_rng(0).choice(gained, (2000, len(gained))).mean(-1)
            yield {
                "text": source,
                "repair": how,
                "dense": round(float(np.exp(dense.mean())), 2),
                "perplexity": round(float(np.exp(after.mean())), 2),
                "nats": [round(float(x), 3) for x in (gained.mean(), *np.percentile(drawn, [2.5, 97.5]))],
                "share": share,
            }


def _losses(forward: Forward, samples: Samples, mask: Mask) -> np.ndarray[Any, Any]:
    """The loss of each window, in nats per token."""
    ((_, losses, _),) = Perplexity().bind(forward, samples).terms([mask])
    return np.asarray(losses)


if __name__ == "__main__":
    main()

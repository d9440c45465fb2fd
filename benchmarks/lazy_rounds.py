"""Measure what lazy rounds save, and how often they end with another mask than rounds that score every candidate.

python -m benchmarks.lazy_rounds [DRAWS]

Greedy search by perplexity, on 2 windows of 64 tokens; each draw takes other windows. The searches on a
draw use each other's scores. Draws that are in benchmarks/lazy.json are not run again.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from pruning.algo.stepwise import Greedy
from pruning.calibration.text import Text
from pruning.core import storage
from pruning.core.mask import Space
from pruning.core.scoring import Racing
from pruning.core.terminal import keep_pages
from pruning.engine.forward import Forward
from pruning.models.handle import Model
from pruning.models.placement import LanguageModel
from pruning.objective import Calibrated
from pruning.objective.likelihood import Perplexity
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal

BLOCKS = {"smollm2": 6, "gemma3_270m": 4}  # how many blocks greedy search removes
RISKS = (0.05, 0.2)
FIRST = 1000  # the seed of the first draw
RESULTS = Path(__file__).parent / "lazy.json"
log = logging.getLogger("benchmarks")


def main() -> None:
    """Run the draws that are missing, and print a line for each model and each risk."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_pages()
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    rows = storage.read_json(RESULTS) if RESULTS.exists() else []
    done = {(row["model"], row["seed"]) for row in rows}
    for name in BLOCKS:
        spec = Model(name, "packaged", name)
        todo = [seed for seed in range(FIRST, FIRST + draws) if (name, seed) not in done]
        for seed in todo:
            rows.append(draw(spec.load(), spec, seed))
            log.info("%s", rows[-1])
            storage.write_json(RESULTS, rows)
    for model in BLOCKS:
        chosen = [row for row in rows if row["model"] == model]
        for risk in map(str, RISKS):
            same = sum(row["mask"] == row["lazy"][risk]["mask"] for row in chosen)
            asked = [sum(row["asked"] for row in chosen), sum(row["lazy"][risk]["asked"] for row in chosen)]
            fewer = asked[0] / max(1, asked[1])
            log.info(
                "%-12s risk %-4s  same mask %d of %d  %.2fx fewer losses",
                *(model, risk, same, len(chosen), fewer),
            )


def draw(model: LanguageModel, spec: Model, seed: int) -> dict[str, Any]:
    """Search one draw with and without lazy rounds. Returns its row of results."""
    samples = Text("pydoc", 2, 64, seed).draw(spec.tokenizer)
    losses = Calibrated(Perplexity(), Forward(model), samples)
    space = Space(model.info.n_blocks, BLOCKS[spec.name])
    known = Journal(None, space.n_blocks)  # the searches use each other's scores

    def search(lazy: float | None) -> dict[str, Any]:
        solution = solve(Problem(Greedy(lazy=lazy), space, 0, Racing()), losses, known, lambda *_: None)
        return {"mask": " ".join(map(str, solution.score.mask.dropped)), "asked": solution.asked}

    row = {"model": spec.name, "k": space.k, "seed": seed, **search(None)}
    row["lazy"] = {str(risk): search(risk) for risk in RISKS}
    losses.forward.release()
    return row


if __name__ == "__main__":
    main()

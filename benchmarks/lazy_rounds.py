"""Measure what lazy rounds save, and how often they end with another mask than rounds that score every candidate.

python -m benchmarks.lazy_rounds [DRAWS]

Greedy search by perplexity, on 2 windows of 64 tokens; each draw takes other windows. The searches on a
draw use each other's scores. Draws that are in benchmarks/lazy.json are not run again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pruning.algo.greedy import Greedy
from pruning.calibration.text import Text
from pruning.core import storage
from pruning.core.mask import Space
from pruning.core.terminal import keep_pages
from pruning.engine.forward import Forward
from pruning.models.model import LanguageModel, Model
from pruning.objective import Calibrated
from pruning.objective.perplexity import Perplexity
from pruning.search.choice import Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores

BLOCKS = {"smollm2": 6, "gemma3_270m": 4}  # how many blocks greedy search removes
RISKS = (0.05, 0.2)
FIRST = 1000  # the seed of the first draw
RESULTS = Path(__file__).parent / "lazy.json"
log = logging.getLogger("benchmarks")


def search(losses: Calibrated, known: KnownScores, space: Space, lazy: float | None) -> tuple[str, float]:
    """The blocks that greedy search removes, and the number of losses that it asks for."""
    solution = solve(Problem(Greedy(lazy=lazy), space, 0, Racing()), losses, known, lambda *_: None)
    return " ".join(map(str, solution.score.mask.dropped)), solution.asked


def draw(model: LanguageModel, spec: Model, k: int, seed: int) -> dict[str, Any]:
    """Search one draw with and without lazy rounds. Returns its row of results."""
    samples = Text("pydoc", 2, 64, seed).draw(spec.tokenizer)
    forward = Forward(model)
    losses, space = Calibrated(Perplexity(), forward, samples), Space(model.info.n_blocks, k)
    known = KnownScores(Journal(None, space.n_blocks))  # the searches use each other's scores
    mask, asked = search(losses, known, space, None)
    row: dict[str, Any] = {"model": spec.name, "k": k, "seed": seed, "mask": mask, "asked": asked, "lazy": {}}
    for risk in RISKS:
        other, fewer = search(losses, known, space, risk)
        row["lazy"][str(risk)] = {"mask": other, "asked": fewer}
    forward.release()
    return row


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each model and each risk."""
    for model in BLOCKS:
        chosen = [row for row in rows if row["model"] == model]
        for risk in map(str, RISKS):
            same = sum(row["mask"] == row["lazy"][risk]["mask"] for row in chosen)
            fewer = sum(row["asked"] for row in chosen) / max(
                1, sum(row["lazy"][risk]["asked"] for row in chosen)
            )
            yield f"{model:12s} risk {risk:4s}  same mask {same} of {len(chosen)}  {fewer:.2f}x fewer losses"


def main() -> None:
    """Run the draws that are missing, and print a line for each model and each risk."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_pages()
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    rows = storage.read_json(RESULTS) if RESULTS.exists() else []
    done = {(row["model"], row["seed"]) for row in rows}
    for name, k in BLOCKS.items():
        spec = Model(name, "packaged", name)
        todo = [seed for seed in range(FIRST, FIRST + draws) if (name, seed) not in done]
        model = spec.load() if todo else None
        for seed in todo:
            assert model is not None
            rows.append(draw(model, spec, k, seed))
            log.info("%s", rows[-1])
            storage.write_json(RESULTS, rows)
    log.info("%s", "\n".join(summary(rows)))


if __name__ == "__main__":
    main()

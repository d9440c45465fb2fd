"""Compare the time of the engine with that of one forward pass per mask; `make bench` runs it.

Both methods run in one process. This benchmark compares their masks and their CPU seconds, and writes
benchmarks/results.json, which keeps the rows of other processors; `make describe` copies the tables to
docs/engine.md.

python -m benchmarks.run [WORD ...]       only the works whose names contain one of the words

"At peak" is the engine's time, divided by the time of its matrix products at the speed of one large product. No exact
method avoids these products, so it says how far the engine is from the best that is possible on this machine. Memory
of freed tensors is kept for both methods (`pruning/core/pages.py`). The baseline multiplies in the model's precision,
as other programs do, and the engine in float32 where that is faster (`pruning/models/float32_products.py`). Their
losses are rounded differently, so both settle near ties in float32; the seconds for this are counted for neither.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import clock
from benchmarks.works import WORKS, Work
from pruning.algo import Algo
from pruning.calibration.samples import Samples
from pruning.core import atomic_files, trace
from pruning.core.mask import Mask
from pruning.core.pages import keep_pages
from pruning.core.space import Space
from pruning.engine.forward import Forward
from pruning.models.block_probe import find_blocks
from pruning.models.float32_products import Float32Linear, native_products
from pruning.objective import Calibrated, Loss
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores, Store
from pruning.search.near_ties import FloatLoss, NearTies
from pruning.search.racing import Racing

Peaks = Mapping[torch.dtype, float]  # GFLOP/s in one large product
FILES = (trace.NAME, trace.BOUNDS)
RESULTS = Path(__file__).parent / "results.json"
log = logging.getLogger("benchmarks")


@dataclass
class Side:
    """One of the two methods: its engine, the folder of its scores, and the seconds that its searches used.

    `settling` is the part of the seconds in which near ties are settled.
    """

    forward: Forward
    folder: Path
    share: bool
    where: torch.device
    seconds: float = 0.0
    settling: float = 0.0
    cells: int = 0
    scored: float = 0.0  # masks, counted by the part of the samples
    bounded: int = 0  # masks

    def search(self, algo: Algo, space: Space, losses: Calibrated, racing: Racing) -> Mask:
        """Run one search as a separate cell."""
        self.cells += 1
        name = f"cell{self.cells}"
        (self.folder / name).mkdir(parents=True)
        store = Store(self.folder, "key", name, space.n_blocks, self.share, space.unit)
        store.claim()
        own = [Journal.open(self.folder / name / file, space.n_blocks, unit=space.unit) for file in FILES]
        known = KnownScores(own[0], store, own[1], store.of(trace.BOUNDS))
        single = None
        if losses.in_half:
            single = FloatLoss(
                lambda: self._in_float32(losses), Journal(None, space.n_blocks, unit=space.unit)
            )
        problem = Problem(algo, space, 0, racing, NearTies())
        started, settling = clock.spent(self.where), self.settling
        solution = solve(problem, losses, known, lambda *_: None, single)
        self.seconds += clock.spent(self.where) - started - (self.settling - settling)
        self.scored += solution.paid + 1  # and the dense model
        self.bounded += sum(score.seconds > 0 for score in own[1].scores.values())
        return solution.score.mask

    def _in_float32(self, losses: Calibrated) -> Loss | None:
        """The loss in float32, whose seconds are added to `settling`. Both methods compute it with the engine."""
        started = clock.spent(self.where)
        own = Forward(self.forward.model, self.forward.batch_tokens)  # with a cost of its own
        loss = replace(losses, forward=own).in_float32()
        self.settling += clock.spent(self.where) - started

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            assert loss is not None
            started = clock.spent(self.where)
            found = list(loss.terms(masks))
            self.settling += clock.spent(self.where) - started
            yield from found

        return None if loss is None else Loss(loss.estimate, terms)


@dataclass(frozen=True)
class Ran:
    """The masks that a method found for a work, and its side."""

    side: Side
    masks: list[Mask]


_ran: dict[str, Ran] = {}  # works with the same baseline, or the same engine settings, run it once


def run(work: Work, plain: bool, where: torch.device) -> Ran:
    """Run the searches of a work with the baseline or with the engine."""
    searches = (work.plain_searches if plain else None) or work.searches
    how: tuple[object, ...] = (work.batch_tokens, work.shared, work.racing)
    how += (work.compile, work.bounds, work.merge)
    if plain:
        how = (work.baseline, work.baseline_tokens)
    key = repr((where, work.model, work.objective, work.samples, searches, work.unit, how))
    if key not in _ran:
        model, samples = work.model(where), work.samples()
        forward = (
            work.baseline(model, work.baseline_tokens)
            if plain
            else Forward(
                model,
                work.batch_tokens,
                merge=work.merge or None,
                compile=work.compile,
                bounds=work.bounds,
            )
        )
        products = native_products(model.module) if plain else nullcontext()
        with tempfile.TemporaryDirectory() as scratch, products:
            side = Side(forward, Path(scratch), work.shared and not plain, where)
            losses = Calibrated(work.objective, forward, samples)
            if forward.compile or where.type != "cpu":  # compiles; a GPU loads its kernels on first use
                next(iter(losses.whole.terms([Mask(model.info.n_blocks)])))
                forward.release()
            spaces = [Space(model.info.n_blocks, k, unit=work.unit) for _, k in searches]
            racing = Racing() if plain else work.racing
            masks = [
                side.search(algo, space, losses, racing)
                for (algo, _), space in zip(searches, spaces, strict=True)
            ]
        _ran[key] = Ran(side, masks)
    return _ran[key]


def measure(work: Work, peaks: Peaks, where: torch.device) -> dict[str, Any]:
    """Run each search of a work with both methods. Returns the work's row of results."""
    both = [run(work, plain, where) for plain in (True, False)]
    plain, engine = (ran.side for ran in both)
    peak = peaks[_precision(engine.forward.model.module)]
    samples = work.samples()
    return {
        "work": work.name,
        "baseline_cpu_seconds": round(plain.seconds, 2),
        "cpu_seconds": round(engine.seconds, 2),
        "ratio": round(plain.seconds / engine.seconds, 2),
        "tokens_ratio": round(plain.forward.cost.block_tokens / engine.forward.cost.block_tokens, 2),
        "masks_equal": both[0].masks == both[1].masks,
        "at_peak": round(engine.seconds / _at_peak(engine, samples, peak), 2),
        "target": work.target,
        "device": clock.device_name(where),
        "peak_gflops": {str(dtype)[6:]: round(speed) for dtype, speed in peaks.items()},
    }


def _precision(module: torch.nn.Module) -> torch.dtype:
    """The precision of the engine's matrix products."""
    single = any(isinstance(layer, Float32Linear) for layer in module.modules())
    return torch.float32 if single else next(module.parameters()).dtype


def _at_peak(side: Side, samples: Samples, peak: float) -> float:
    """The seconds of the engine's matrix products in blocks and head, at `peak` GFLOP/s."""
    forward, module = side.forward, side.forward.model.module
    text = module.config.get_text_config(decoder=True)
    block = sum(p.numel() for p in find_blocks(module).modules[0].parameters())
    scored = sum(row.span[1] - row.span[0] for row in samples.rows)
    part = 0 if forward.parts.last is None else len(forward.parts.last.tokens)
    tokens = side.scored * text.vocab_size + side.bounded * part
    head = scored * tokens * text.hidden_size
    return 2 * float(forward.cost.block_tokens * block + head) / peak / 1e9


def chosen(words: Sequence[str]) -> list[Work]:
    """The works whose names contain one of the words; all works if there are none."""
    return [work for work in WORKS if not words or any(word in work.name for word in words)]


def heading(where: torch.device) -> Peaks:
    """Print the device and the heading of the table. Returns its GFLOP/s. A CPU uses one thread from now on."""
    if where.type == "cpu":
        torch.set_num_threads(1)
    peaks = {dtype: clock.matmul_peak(where, dtype) for dtype in (torch.float32, torch.bfloat16)}
    shown = ", ".join(f"{str(dtype)[6:]} {peak:,.0f}" for dtype, peak in peaks.items())
    threads = ", one thread" if where.type == "cpu" else ""
    log.info("%s%s, largest product in GFLOP/s: %s", clock.device_name(where), threads, shown)
    names = ("plain s", "engine s", "ratio", "tokens", "at peak", "target", "work")
    log.info("%9s %9s %7s %9s %8s %7s  %s", *names)
    return peaks


def line(work: Work, peaks: Peaks, where: torch.device) -> dict[str, Any]:
    """Measure a work and print a line of the table. The targets are for a CPU. Returns the work's row of results."""
    row = measure(work, peaks, where)
    columns = ("baseline_cpu_seconds", "cpu_seconds", "ratio", "tokens_ratio", "at_peak")
    target = f"{work.target:.1f}x" if where.type == "cpu" else "-"
    log.info("%9.1f %9.1f %6.2fx %8.2fx %7.2fx %7s  %s", *(row[name] for name in columns), target, work.name)
    if not row["masks_equal"]:
        log.warning("the masks differ: %s", work.name)
    return row


def replaced(rows: Sequence[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a new one in place of that of the same work and device, by device and in the order of `WORKS`.

    Rows of works that are no more are left out.
    """
    order = [work.name for work in WORKS]
    others = [row for row in rows if any(row[name] != new[name] for name in ("work", "device"))]
    kept = [row for row in (*others, new) if row["work"] in order]
    return sorted(kept, key=lambda row: (row["device"], order.index(row["work"])))


def main() -> None:
    """Run the chosen works on the CPU, print a line for each and write its row."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words, where = sys.argv[1:], torch.device("cpu")
    keep_pages()
    peaks = heading(where)
    rows: list[dict[str, Any]] = atomic_files.read_json(RESULTS) if RESULTS.exists() else []
    for work in chosen(words):
        rows = replaced(rows, line(work, peaks, where))
        atomic_files.write_json(RESULTS, rows)


if __name__ == "__main__":
    main()

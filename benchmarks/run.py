"""Compare the time of the engine with that of one forward pass per mask; `make bench` runs it.

python -m benchmarks.run [WORD ...]       only the works (searches to time) whose names contain a word

Both methods run in one process, on the GPU if one is visible. Their masks and seconds are compared, and this
device's rows in benchmarks/results.json are replaced; docs/benchmarks.md explains the columns. The baseline
multiplies in the model's precision, as other programs do. The engine multiplies in float32 if that is faster
(`pruning/models/products.py`). So the two methods round losses differently, and both settle near ties in float32. If
the baseline runs as SLEB's code, which settles no ties, the engine's time includes settling; otherwise, no time does.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import ONE_WINDOW, Plain
from pruning.algo import Algo
from pruning.algo.greedy import Greedy
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Text
from pruning.core import storage
from pruning.core.mask import Mask, Space
from pruning.core.processor import instruction_set, processor_name
from pruning.core.scoring import NearTies, Racing, Score
from pruning.core.terminal import keep_pages
from pruning.engine.devices import exact, synchronize
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.models.handle import Model
from pruning.models.placement import LanguageModel, ModelInfo
from pruning.models.products import Float32Linear, native_products
from pruning.objective import Calibrated, Objective
from pruning.objective.divergence import Divergence
from pruning.objective.perplexity import Perplexity
from pruning.search.decide import FloatLoss
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal

Peaks = Mapping[torch.dtype, float]  # GFLOP/s in one large product
RESULTS = Path(__file__).parent / "results.json"
CPU = torch.device("cpu")
log = logging.getLogger("benchmarks")


def main() -> None:
    """Measure the chosen works. Print a line and write a row of results for each work."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_pages()
    exact()
    torch.set_num_threads(1)
    where = torch.device("cuda") if torch.cuda.is_available() else CPU
    peaks = {dtype: matmul_peak(where, dtype) for dtype in (torch.float32, torch.bfloat16)}
    log.info("%s: float32 %.0f, bfloat16 %.0f GFLOP/s", device_name(where), *peaks.values())
    log.info("%9s %9s %7s %8s  %s", "plain s", "engine s", "ratio", "at peak", "work")
    order = [(work.name, work.settings) for work in WORKS]
    for name in dict.fromkeys(work.name for work in WORKS):
        if any(word in name for word in sys.argv[1:] or [""]):
            works = [work for work in WORKS if work.name == name]
            for turn, work, plain in itertools.product(range(works[0].turns), works, (True, False)):
                run(work, plain, where, turn)  # in turn, because a machine's speed changes
            rewrite(RESULTS, [line(work, peaks, where) for work in works], ("work", "settings"), order)


def line(work: Work, peaks: Peaks, where: torch.device) -> dict[str, Any]:
    """Measure a work by each method's fastest turn, print its line of the table, and return its row of results."""
    plains, engines = ([run(work, own, where, turn) for turn in range(work.turns)] for own in (True, False))
    plain = min(plains, key=lambda side: side.seconds)
    engine = min(engines, key=lambda side: side.seconds + side.settling)
    seconds = engine.seconds + (engine.settling if work.baseline_tokens == ONE_WINDOW else 0)
    row = {
        "work": work.name,
        "settings": work.settings,
        "baseline_cpu_seconds": round(plain.seconds, 2),
        "cpu_seconds": round(seconds, 2),
        "ratio": round(plain.seconds / seconds, 2),
        "masks_equal": plain.mask == engine.mask,
        "at_peak": round(engine.seconds / _at_peak(engine, work.samples(), peaks), 2),
        "device": device_name(where),
    }
    shown = ": ".join(filter(None, (work.name, work.settings)))
    log.info("%9.1f %9.1f %6.2fx %7.2fx  %s", *list(row.values())[2:5], row["at_peak"], shown)
    if not row["masks_equal"]:
        log.warning("the masks differ: %s", shown)
    return row


def rewrite(path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str], order: Sequence[Any]) -> None:
    """Write rows to a file of results; they replace those of the same device that are equal in the fields `names`.

    Rows are sorted by device and by the place of these fields in `order`; rows that are not there are left out.
    """

    def key(row: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
        return row["device"], tuple(row[name] for name in names)

    old, new = storage.read_json(path) if path.exists() else [], {key(row) for row in rows}
    kept = [row for row in (*(row for row in old if key(row) not in new), *rows) if key(row)[1] in order]
    storage.write_json(path, sorted(kept, key=lambda row: (row["device"], order.index(key(row)[1]))))


# Run the search of a work with the baseline or with the engine.


@dataclass
class Side:
    """One of the two methods: its engine, the mask that it found, and the seconds that its search used.

    `settling` is the number of seconds spent on near ties, which `seconds` excludes.
    """

    forward: Forward
    where: torch.device
    mask: Mask | None = None
    seconds: float = 0.0
    settling: float = 0.0
    scored: float = 0.0  # number of masks; a mask scored on a part of the samples counts as that fraction
    bounded: int = 0  # number of masks

    def search(self, work: Work, losses: Calibrated, plain: bool) -> None:
        """Run a work's search, and record its mask, its seconds and how many masks it scored."""
        space = Space(self.forward.n_blocks, work.k)
        algo, racing = (work.algo, Racing()) if plain else (work.lazy or work.algo, work.racing)
        own = [Journal(None, space.n_blocks) for _ in range(3)]  # for losses, bounds and losses in float32
        single = None
        if losses.in_half:
            # Both methods use the engine for near ties, and it counts its own cost.
            engine = Forward(self.forward.model, self.forward.batch_tokens)
            single = TimedFloats(replace(losses, forward=engine).in_float32, own[2], self)
        problem = Problem(algo, space, 0, racing, work.near_ties, bounds=work.bounds and not plain)
        started = spent(self.where)
        solution = solve(problem, losses, own[0], lambda *_: None, single, own[1])
        self.seconds = spent(self.where) - started - self.settling
        self.scored = solution.paid + 1  # and the dense model
        self.bounded = sum(score.seconds > 0 for score in own[1].scores.values())
        self.mask = solution.score.mask


@dataclass(frozen=True)
class TimedFloats(FloatLoss):
    """Float32 losses whose seconds are added to `side.settling`."""

    side: Side

    def scores(self, masks: Sequence[Mask], samples: int) -> list[Score] | None:
        """The scores, as `FloatLoss` returns them."""
        started = spent(self.side.where)
        found = super().scores(masks, samples)
        self.side.settling += spent(self.side.where) - started
        return found


_ran: dict[str, Side] = {}  # works with the same baseline, or with the same engine settings, share one run


def run(work: Work, plain: bool, where: torch.device, turn: int) -> Side:
    """Run a work's search with the baseline (`plain`) or the engine, unless it was run before in this turn."""
    how = work.baseline_tokens if plain else (work.racing, work.lazy, work.near_ties, work.bounds)
    key = repr((turn, where, work.model, work.objective, work.samples, work.algo, work.k, how))
    if key not in _ran:
        model = work.model(where)
        forward = Plain(model, work.baseline_tokens) if plain else Forward(model)
        with native_products(model.module) if plain else nullcontext():
            side = Side(forward, where)
            losses = Calibrated(work.objective, forward, work.samples())
            if where.type != "cpu":  # the first use loads a GPU's kernels
                next(iter(losses.whole.terms([Mask(model.info.n_blocks)])))
                forward.release()
            side.search(work, losses, plain)
        _ran[key] = side
    return _ran[key]


def _at_peak(side: Side, samples: Samples, peaks: Peaks) -> float:
    """The seconds that the engine's matrix products in blocks and head would take if as fast as one large product."""
    forward, module = side.forward, side.forward.model.module
    single = any(isinstance(layer, Float32Linear) for layer in module.modules())
    peak = peaks[torch.float32 if single else next(module.parameters()).dtype]
    text = module.config.get_text_config(decoder=True)
    block = sum(p.numel() for p in find_blocks(module).modules[0].parameters())
    scored = sum(row.span[1] - row.span[0] for row in samples.rows)
    part = sum(len(part.tokens) for part in forward.parts.values() if part is not None)
    tokens = side.scored * text.vocab_size + side.bounded * part
    return 2 * float(forward.cost.block_tokens * block + scored * tokens * text.hidden_size) / peak / 1e9


# Time work on a device, and measure how fast the device can be.


def spent(where: torch.device) -> float:
    """On a CPU, this process's CPU seconds so far; on a GPU, clock seconds after all work has ended."""
    if where.type == "cpu":
        return time.process_time()
    synchronize([where])
    return time.perf_counter()


def matmul_peak(where: torch.device, dtype: torch.dtype) -> float:
    """The GFLOP/s of a device in one large matrix product; a multiply-add counts as two operations.

    On a CPU, the seconds are CPU seconds, so other work on the machine has little effect.
    """
    width = 2048 if where.type == "cpu" else 8192
    a, b = (torch.randn(width, width, device=where).to(dtype) for _ in range(2))
    taken = timeit.repeat(lambda: a @ b, timer=partial(spent, where), repeat=9, number=1)
    return 2 * width**3 / min(taken) / 1e9


def device_name(where: torch.device = CPU) -> str:
    """The GPU's name, or the names of the processor and of its instruction set."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"{processor_name()} with {instruction_set()}"


# The works that the benchmark times. Each work has a model, samples, and searches.


@dataclass(frozen=True)
class Work:
    """One search to time, with the engine's settings and those of the baseline.

    `settings` names the engine's settings; empty means the defaults. The baseline always runs `algo`,
    without racing. The engine may race. If `lazy` is a search, the engine runs `lazy` instead of `algo`. All
    methods and settings run in turn, `turns` times.
    """

    name: str
    model: Callable[[torch.device], LanguageModel]
    objective: Objective
    samples: Callable[[], Samples]
    k: int
    algo: Algo = field(default_factory=Greedy)
    settings: str = ""
    racing: Racing = field(default_factory=Racing)
    near_ties: NearTies = field(default_factory=NearTies)
    baseline_tokens: int = 2048
    lazy: Algo | None = None
    bounds: bool = False
    turns: int = 1


SMOLLM2 = Model("smollm2", "packaged", "smollm2")


def smollm2(where: torch.device = CPU) -> LanguageModel:
    """SmolLM2, the packaged model, on a device, loaded with the default settings."""
    return replace(SMOLLM2, device_map="cpu" if where.type == "cpu" else "auto").load()


def tiny_llama(n_blocks: int, where: torch.device = CPU) -> LanguageModel:
    """A random Llama of width 64 on a device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=512, num_hidden_layers=n_blocks, initializer_range=0.2, **sizes)
    module = LlamaForCausalLM(config).to(where).eval()
    return LanguageModel(module, ModelInfo("tiny", "random", "0", n_blocks, "float32", 0))


def text(samples: int, length: int) -> Samples:
    """Windows of the packaged text `pydoc`."""
    return Text("pydoc", samples, length, 0).draw(SMOLLM2.tokenizer)


def tokens(samples: int, length: int) -> Samples:
    """Windows of random tokens for tiny models."""
    rng = np.random.default_rng(0)
    rows = tuple(Row(tuple(map(int, rng.integers(3, 512, length))), (1, length)) for _ in range(samples))
    return Samples("text", "random", rows, 0)


def greedy(name: str, samples: Callable[[], Samples], k: int = 6, **settings: Any) -> Work:
    """Greedy search for k blocks of SmolLM2 by perplexity; `settings` are other fields of `Work`."""
    return Work(name, smollm2, samples=samples, k=k, **{"objective": Perplexity(), **settings})


BOUNDS: dict[str, Any] = {"settings": "bounds", "bounds": True}
LAZY: dict[str, Any] = {"settings": "lazy rounds", "lazy": Greedy(lazy=0.05)}
NO_TIES: dict[str, Any] = {"settings": "bounds, near_ties.most=0", "bounds": True, "near_ties": NearTies(0)}
QUICK = {"settings": "race, lazy rounds, near_ties.most=0", "racing": Racing(0.05), "near_ties": NearTies(0)}
SLEB = "as SLEB's published code does it"
SHORT = greedy(f"{SLEB}, 2 x 128 tokens, k=2", partial(text, 2, 128), 2, baseline_tokens=ONE_WINDOW, turns=3)
LONG = greedy(f"{SLEB}, 16 x 128 tokens, k=6", partial(text, 16, 128), baseline_tokens=ONE_WINDOW)
EIGHT = greedy("greedy k=6 of 30, SmolLM2, 8 x 128 tokens, perplexity", partial(text, 8, 128))
DIVERGENCES = greedy(
    "greedy k=6, SmolLM2, 4 x 128 tokens, divergence", partial(text, 4, 128), objective=Divergence()
)
VARIED: list[tuple[Work, Sequence[dict[str, Any]]]] = [
    (EIGHT, (BOUNDS, LAZY)),
    (SHORT, (BOUNDS, NO_TIES)),
    (LONG, (BOUNDS, LAZY | QUICK)),
    (DIVERGENCES, (BOUNDS,)),
]
WORKS = [replace(work, **own) for work, variants in VARIED for own in ({}, *variants)]

if __name__ == "__main__":
    main()

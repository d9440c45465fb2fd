"""Compare the time of the engine with that of one forward pass per mask; `make bench` runs it.

Both methods run in one process. This benchmark compares their masks and their CPU seconds, and writes
benchmarks/results.json, which keeps the rows of other processors; `make describe` copies the tables to
docs/engine.md.

python -m benchmarks.run [WORD ...]       only the works whose names contain one of the words

"At peak" is the engine's time, divided by the time of its matrix products at the speed of one large product. No exact
method avoids these products, so it says how far the engine is from the best that is possible on this machine. Memory
of freed tensors is kept for both methods (`pruning/core/terminal.py`). The baseline multiplies in the model's
precision, as other programs do, and the engine in float32 where that is faster (`pruning/models/loader.py`). Their
losses are rounded differently, so both settle near ties in float32; the seconds for this are counted for neither.
"""

from __future__ import annotations

import logging
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.published import Published
from pruning.algo import Algo, Ask, Found, Proposals
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.calibration import sources
from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Text
from pruning.core import scoring, storage
from pruning.core.mask import Mask, Space
from pruning.core.terminal import keep_pages
from pruning.engine import batching
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Distributions, Readout
from pruning.models import loader
from pruning.models.blocks import find_blocks
from pruning.models.loader import LanguageModel
from pruning.models.products import Float32Linear, native_products
from pruning.models.spec import Model, ModelInfo
from pruning.models.sublayers import find_chain, masked
from pruning.objective import Calibrated, Loss, Objective
from pruning.objective.divergence import Divergence
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from pruning.search.choice import FloatLoss, NearTies, Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores, Store

Peaks = Mapping[torch.dtype, float]  # GFLOP/s in one large product
FILES = (scoring.NAME, scoring.BOUNDS)
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
        known = KnownScores(own[0], store, own[1], store.of(scoring.BOUNDS))
        single = None
        if losses.in_half:
            single = FloatLoss(
                lambda: self._in_float32(losses), Journal(None, space.n_blocks, unit=space.unit)
            )
        problem = Problem(algo, space, 0, racing, NearTies())
        started, settling = spent(self.where), self.settling
        solution = solve(problem, losses, known, lambda *_: None, single)
        self.seconds += spent(self.where) - started - (self.settling - settling)
        self.scored += solution.paid + 1  # and the dense model
        self.bounded += sum(score.seconds > 0 for score in own[1].scores.values())
        return solution.score.mask

    def _in_float32(self, losses: Calibrated) -> Loss | None:
        """The loss in float32, whose seconds are added to `settling`. Both methods compute it with the engine."""
        started = spent(self.where)
        own = Forward(self.forward.model, self.forward.batch_tokens)  # with a cost of its own
        loss = replace(losses, forward=own).in_float32()
        self.settling += spent(self.where) - started

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            assert loss is not None
            started = spent(self.where)
            found = list(loss.terms(masks))
            self.settling += spent(self.where) - started
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
        "device": device_name(where),
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
    peaks = {dtype: matmul_peak(where, dtype) for dtype in (torch.float32, torch.bfloat16)}
    shown = ", ".join(f"{str(dtype)[6:]} {peak:,.0f}" for dtype, peak in peaks.items())
    threads = ", one thread" if where.type == "cpu" else ""
    log.info("%s%s, largest product in GFLOP/s: %s", device_name(where), threads, shown)
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
    rows: list[dict[str, Any]] = storage.read_json(RESULTS) if RESULTS.exists() else []
    for work in chosen(words):
        rows = replaced(rows, line(work, peaks, where))
        storage.write_json(RESULTS, rows)


if __name__ == "__main__":
    main()


# Time work on a device, and measure how fast the device can be.

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # as Linux calls them, the fastest first


def spent(where: torch.device) -> float:
    """Seconds that work has taken so far: CPU seconds of this process, or on a GPU, seconds until it has finished."""
    if where.type == "cpu":
        return time.process_time()
    batching.synchronize([where])
    return time.perf_counter()


def seconds(where: torch.device, action: Callable[[], Any]) -> float:
    """The seconds from the start of an action until the device has finished it."""
    batching.synchronize([where])
    started = time.perf_counter()
    action()
    batching.synchronize([where])
    return time.perf_counter() - started


def matmul_peak(where: torch.device, dtype: torch.dtype) -> float:
    """The GFLOP/s of a device in one large matrix product; a multiply-add counts as two operations.

    On a CPU these are CPU seconds, so other work on the machine matters little.
    """
    width = 2048 if where.type == "cpu" else 8192
    a, b = (torch.randn(width, width, device=where).to(dtype) for _ in range(2))
    a @ b
    taken = []
    for _ in range(8):
        started = spent(where)
        a @ b
        taken.append(spent(where) - started)
    return 2 * width**3 / min(taken) / 1e9


def device_name(where: torch.device) -> str:
    """The name of the GPU, or of the processor with its fastest instructions for bfloat16."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    fastest = [name for name in INSTRUCTIONS if name in known.get("flags", "").split()]
    return " with ".join([known.get("model name", platform.processor()), *fastest[:1]])


# The baseline: one masked forward pass for each mask and batch, as in every public tool.


@dataclass
class Plain(Forward):
    """The baseline: for each mask, run all kept blocks and the whole head on all rows, batched as in the engine."""

    _dense_logits: dict[int, Tensor] = field(default_factory=dict)  # by the number of the batch

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """See `Forward.sums`. The logits of the dense model are computed once."""
        batches, masks = make_batches(single(rows), self.batch_tokens), list(masks)
        shares = find_chain(self.model.module, masks[0].unit).block_shares()
        tokens = sum(batch.ids.numel() for batch in batches)
        for mask in masks:
            started, sums = time.perf_counter(), torch.zeros(len(rows), dtype=torch.float64)
            for number, batch in enumerate(batches):
                sums.index_add_(0, batch.rows, self._values(number, batch, mask, readout))
            self.cost.block_tokens += round(tokens * sum(shares[i] for i in mask.kept))
            yield mask, sums.tolist(), time.perf_counter() - started

    @torch.inference_mode()
    def _values(self, number: int, batch: Batch, mask: Mask, readout: Readout) -> Tensor:
        logits, targets = self._logits(batch, mask), batch.targets.to(self.model.device)
        if readout is LIKELIHOOD:
            return -torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().cpu()
        if number not in self._dense_logits:
            self._dense_logits[number] = self._logits(batch, Mask(mask.n_blocks))
        dense = Distributions(self._dense_logits[number])
        return readout.value(Distributions(logits), dense, targets).double().cpu()

    def _logits(self, batch: Batch, mask: Mask) -> Tensor:
        """The logits (n, V) at the batch's targets, in float32."""
        inputs = batch.inputs(self.model.device, self.model.module.dtype)
        with masked(self.model.module, mask):
            logits: Tensor = self.model.module(**inputs, use_cache=False).logits.flatten(0, 1)
        return logits[batch.indices.to(logits.device)].float()


# The works that the benchmark times. Each work has a model, samples, and searches.


@dataclass(frozen=True)
class Every:
    """A search that scores all masks of the space in one batch."""

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for all masks once."""
        masks = [space.drop(*chosen) for chosen in combinations(space.free(), space.k)]
        losses = yield Ask(masks, best=1)
        return Found(masks[int(np.argmin(losses))], "every mask was scored")

    def evaluations(self, space: Space) -> int:
        """The number of masks in the space: N choose k."""
        return space.size


@dataclass(frozen=True)
class Work:
    """One work to time, with the engine's settings and those of the baseline.

    If `shared`, the engine's searches use each other's scores. The baseline never does, never races, and runs
    `plain_searches` (None: the same searches). `unit` is what they remove. With `compile`, the engine runs compiled;
    the time for compiling is not counted.
    """

    name: str
    target: float
    model: Callable[[torch.device], LanguageModel]
    objective: Objective
    samples: Callable[[], Samples]
    searches: Sequence[tuple[Algo, int]]
    batch_tokens: int = 2048
    baseline_tokens: int = 2048
    shared: bool = False
    racing: Racing = field(default_factory=Racing)
    baseline: type[Forward] = Plain
    plain_searches: Sequence[tuple[Algo, int]] | None = None
    unit: str = "block"
    compile: bool = False
    bounds: bool = False
    merge: bool = False


SMOLLM2 = Model("smollm2", "packaged", "smollm2")
CPU = torch.device("cpu")


def smollm2(where: torch.device = CPU) -> LanguageModel:
    """The embedded model on a device, loaded with the default settings."""
    return loader.load(replace(SMOLLM2, device_map="cpu" if where.type == "cpu" else "auto"))


def tiny_llama(n_blocks: int, where: torch.device = CPU) -> LanguageModel:
    """A random Llama of width 64 on a device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=512, num_hidden_layers=n_blocks, initializer_range=0.2, **sizes)
    module = LlamaForCausalLM(config).to(where).eval()
    return LanguageModel(module, ModelInfo("tiny", "random", "0", n_blocks, "float32", 0))


def text(samples: int, length: int) -> Samples:
    """Windows of the embedded text."""
    return Text("pydoc", samples, length, 0).draw(loader.tokenizer(SMOLLM2))


def four_choice_items(count: int) -> Samples:
    """The first embedded calibration items that have four choices, in the order of the draw with seed 0."""
    drawn = Items("commonsense", len(sources.embedded_items("calibration")), 0).draw(
        loader.tokenizer(SMOLLM2)
    )
    sizes = {item: sum(row.item == item for row in drawn.rows) for item in {row.item for row in drawn.rows}}
    chosen = [item for item, size in sorted(sizes.items(), key=lambda pair: pair[0] or 0) if size == 4][
        :count
    ]
    rows = tuple(row for row in drawn.rows if row.item in chosen)
    return Samples("items", "commonsense", rows, 0)


def tokens(samples: int, length: int) -> Samples:
    """Random tokens for the tiny models."""
    rng = np.random.default_rng(0)
    rows = tuple(Row(tuple(map(int, rng.integers(3, 512, length))), (1, length)) for _ in range(samples))
    return Samples("text", "random", rows, 0)


PANEL = tuple((algo, k) for k in (3, 6) for algo in (OneShot(), Greedy(), Beam(5)))

LAZY: dict[str, Any] = {"searches": [(Greedy(lazy=0.05), 6)], "plain_searches": [(Greedy(), 6)]}


def greedy(name: str, target: float, **settings: Any) -> Work:
    """Greedy search for six blocks of SmolLM2 by perplexity."""
    samples = settings.pop("samples", partial(text, 8, 128))
    return Work(name, target, smollm2, Perplexity(), samples, **{"searches": [(Greedy(), 6)], **settings})


RACE = "greedy k=6, 128 x 64 tokens"
RACING: dict[str, Any] = {"samples": partial(text, 128, 64), "racing": Racing(0.05)}
SUBLAYERS = greedy(
    "greedy k=6 of 60 sub-layers, SmolLM2, 4 x 128 tokens, perplexity",
    3.0,
    samples=partial(text, 4, 128),
    unit="sublayer",
)

SHORT = greedy("greedy k=6, SmolLM2, 2 x 64 tokens, perplexity", 3.0, samples=partial(text, 2, 64))

PAIRS = Work(
    "all 435 pairs of 30, SmolLM2",
    target=3.2,
    model=smollm2,
    objective=Perplexity(),
    samples=partial(text, 4, 128),
    searches=[(Every(), 2)],
)
TRIPLES = Work(
    "all C(28,3) masks, tiny Llama",
    target=7.0,
    model=partial(tiny_llama, 28),
    objective=Perplexity(),
    samples=partial(tokens, 2, 64),
    searches=[(Every(), 3)],
)
PANEL_WORK = Work(
    "one_shot, greedy and beam at k=3 and k=6 with shared scores, SmolLM2",
    target=5.0,
    model=smollm2,
    objective=Perplexity(),
    samples=partial(text, 4, 128),
    searches=PANEL,
    shared=True,
)
DIVERGENCES = Work(
    "greedy k=6, SmolLM2, 4 x 128 tokens, divergence",
    3.0,
    smollm2,
    Divergence(),
    partial(text, 4, 128),
    [(Greedy(), 6)],
)
MARGINS = Work(
    "greedy k=6, SmolLM2, margin on 32 four-choice items",
    target=5.5,
    model=smollm2,
    objective=Margin(),
    samples=partial(four_choice_items, 32),
    searches=[(Greedy(), 6)],
)
FASTEST: dict[str, Any] = {"bounds": True, "compile": True}


def bounded(work: Work) -> Work:
    """The same work with bounds, compiled."""
    return replace(work, name=f"{work.name}, with bounds, compiled", **FASTEST)


WORKS = (
    greedy("greedy k=6 of 30, SmolLM2, 8 x 128 tokens, perplexity", 3.0),
    greedy("the same, compiled", 3.0, compile=True),
    greedy("the same with bounds", 3.0, bounds=True),
    greedy("the same with bounds, compiled", 3.0, **FASTEST),
    greedy("the same with lazy rounds", 4.5, **LAZY),
    greedy("the same with lazy rounds, compiled", 4.5, **LAZY, compile=True),
    greedy("the same with lazy rounds, with bounds, compiled", 4.5, **LAZY, **FASTEST),
    SHORT,
    replace(SHORT, name=f"{SHORT.name}, merged", merge=True),
    replace(SHORT, name=f"{SHORT.name}, merged, with bounds, compiled", merge=True, **FASTEST),
    greedy(f"{RACE}, racing", 7.0, **RACING),
    greedy(f"{RACE}, racing, compiled", 7.0, **RACING, compile=True),
    greedy(f"{RACE}, lazy rounds and racing", 7.0, **RACING, **LAZY),
    greedy(f"{RACE}, lazy rounds and racing, compiled", 7.0, **RACING, **LAZY, compile=True),
    SUBLAYERS,
    replace(SUBLAYERS, name=f"{SUBLAYERS.name}, with bounds", bounds=True),
    greedy("as SLEB's published code does it, exact", 3.5, baseline=Published),
    greedy(
        "as SLEB's published code does it, exact, with bounds, compiled", 3.5, baseline=Published, **FASTEST
    ),
    greedy(
        "as SLEB's published code does it, 128 x 64 tokens, lazy rounds and racing",
        8.0,
        baseline=Published,
        **RACING,
        **LAZY,
    ),
    DIVERGENCES,
    replace(DIVERGENCES, name=f"{DIVERGENCES.name}, compiled", compile=True),
    bounded(DIVERGENCES),
    MARGINS,
    replace(MARGINS, name=f"{MARGINS.name}, compiled", compile=True),
    Work(
        "greedy k=8 of 32, tiny Llama (hidden 64), batch 1",
        target=6.0,
        model=partial(tiny_llama, 32),
        objective=Perplexity(),
        samples=partial(tokens, 32, 64),
        searches=[(Greedy(), 8)],
        baseline_tokens=64,
    ),
    PAIRS,
    bounded(PAIRS),
    TRIPLES,
    replace(TRIPLES, name=f"{TRIPLES.name}, compiled", compile=True),
    PANEL_WORK,
    replace(PANEL_WORK, name=f"{PANEL_WORK.name}, with bounds", bounds=True),
    bounded(PANEL_WORK),
)

"""The works that the benchmark times. Each work has a model, samples, and searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch

from benchmarks.plain import Plain
from benchmarks.published import Published
from pruning.algo import Algo, Ask, Found, Proposals
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.calibration import sources
from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Text
from pruning.core.space import Space
from pruning.engine.forward import Forward
from pruning.models import loader
from pruning.models.loader import LanguageModel
from pruning.models.spec import Model, ModelInfo
from pruning.objective import Objective
from pruning.objective.divergence import Divergence
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from pruning.search.racing import Racing


@dataclass(frozen=True)
class Every:
    """A search that scores all masks of the space in one batch."""

    max_evaluations: int | None = None

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

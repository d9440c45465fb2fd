"""Forecast how long a cell takes on this machine, and how much memory, from a measurement of a few seconds.

Masks of a search share the beginnings of their passes, so of their block forwards about `SHARED` are left
(`docs/engine.md`). All numbers are rough: they are for a person who decides whether to wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from torch import nn

from pruning.calibration.samples import Samples
from pruning.core import trace
from pruning.core.heal_record import FOLDER
from pruning.core.result import DoneResult
from pruning.core.space import Space
from pruning.engine.device import free_memory
from pruning.engine.map_settings import Linear
from pruning.engine.single_precision import HALVES
from pruning.healing import checkpoint
from pruning.healing.files import read_record
from pruning.healing.heal import latest_checkpoint
from pruning.healing.rate import known, settled
from pruning.models.block_probe import find_blocks
from pruning.objective import Calibrated
from pruning.runs.cell_model import forward_of, model_of
from pruning.runs.cell_repair import check_repair
from pruning.runs.cell_space import cell_space
from pruning.runs.prepare import Prepared
from pruning.runs.rates import Rates, measured_rates
from pruning.search import budget

if TYPE_CHECKING:
    from pruning.evaluation.speed import Speed
    from pruning.healing.settings import Training
    from pruning.models.loader import LanguageModel

SHARED = 0.4  # the part of a search's block forwards that is left when masks share their beginnings
RACED = 0.5  # the part of a loss that a race computes on average (benchmarks/racing.json)
MAPS = 0.5  # passes over the samples for each removed unit whose run gets a map, on average
LOADS = 4  # an export takes about as long as loading the model this often: read, write, load again, compare
TRAINED = 20  # bytes of each trained parameter: copy, gradient, two moments, best values (docs/healing.md)


@dataclass(frozen=True)
class Forecast:
    """Seconds by part of the work; bytes of memory that the process needs, and that it can have.

    `single` are the bytes of the float32 copy of the model that settles near ties.
    """

    parts: Mapping[str, float]
    memory: int
    available: int
    single: int = 0

    @property
    def seconds(self) -> float:
        """The seconds of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class _Work:
    """A cell, its space, the share of its units that is removed, its result if it is done, and the rates."""

    prepared: Prepared
    space: Space
    removed: float
    done: DoneResult | None
    rates: Rates


def forecast(prepared: Prepared, speed: Speed | None, export: bool) -> Forecast:
    """What the rest of a cell takes, without what earlier runs have finished. The model is loaded.

    `speed` says whether the speed is measured too, and `export` whether a checkpoint is written. Raises
    UnskippableError or InputError if the model cannot be divided, searched or repaired as the cell asks for.
    """
    cell, started = prepared.cell, time.perf_counter()
    model = model_of(cell)
    loading = time.perf_counter() - started
    forward, space = forward_of(cell, model), cell_space(cell, model)
    check_repair(prepared, forward, space.unit)
    removed = cell.ratio if cell.ratio is not None else (cell.k or 0) / space.n_units
    used, free = psutil.Process().memory_info().rss, free_memory(model.module)
    losses = Calibrated(cell.objective, forward, prepared.samples)
    rates = measured_rates(losses, space.drop(space.free()[0]), cell.heal)
    result = cell.result()
    work = _Work(prepared, space, removed, result if result and result["status"] == "done" else None, rates)
    parts = {name: seconds for name, seconds in _parts(work) if seconds > 0}
    if speed is not None and (work.done is None or "speed" not in work.done["evaluation"]):
        shapes = [(batch, prompt) for batch in speed.batch_sizes for prompt in speed.prompts]
        once = sum(b * p * rates.dense + b * speed.new_tokens * rates.generated for b, p in shapes)
        parts["speed"] = 2 * (speed.repeats + speed.warmup) * once
    if export:
        parts["export"] = LOADS * loading
    single = _single_bytes(work, model)
    return Forecast(parts, used + _extra_memory(work, model, single), used + free, single)


def _parts(work: _Work) -> Iterator[tuple[str, float]]:
    """Seconds of the search, the repair, the evaluation and the healing, as far as they are not done."""
    cell, rates, done = work.prepared.cell, work.rates, work.done
    tokens = sum(len(row.input_ids) for row in work.prepared.samples.rows)
    repairs = isinstance(cell.compensation, Linear)
    if done is None:
        asked = budget.evaluations(cell.algo, work.space)
        left = max(0, asked - _lines(work)) * (rates.loss - rates.blocks + SHARED * rates.blocks)
        raced = 1.0 if cell.racing.delta is None else RACED
        yield "search", tokens * (rates.first + raced * left)
        count = round(work.removed * work.space.n_units)
        yield "repair", repairs * MAPS * count * tokens * rates.blocks
    measured = 0 if done is not None else 3 if repairs else 2
    if cell.heal.trains and not _healed(work):
        yield "healing", _healing(work)
        measured += 1
    rows = [row for data in work.prepared.data.values() if isinstance(data, Samples) for row in data.rows]
    yield "evaluation", measured * rates.dense * sum(len(row.input_ids) for row in rows)


def _healed(work: _Work) -> bool:
    """Whether the cell's folder has the finished healing that is asked for, and not only another one."""
    cell, text = work.prepared.cell, work.prepared.text
    assert text is not None
    heal = settled(cell.heal, known(cell.heal, text, cell.folder / FOLDER))
    if heal is None:
        return False
    place = FOLDER
    if cell.heal.candidates > 1:
        if work.done is None or "selection" not in work.done.get("heal", {}):
            return False  # which candidate is healed is not known yet
        place = str(Path(work.done["heal"]["folder"]).parent)
    return read_record(cell.folder / place / heal.key(text.sha256)) is not None


def _healing(work: _Work) -> float:
    """Seconds of the steps that no checkpoint has, and of the losses on held-out windows."""
    asked: Training = work.prepared.cell.heal
    text, rates, folder = work.prepared.text, work.rates, work.prepared.cell.folder / FOLDER
    assert text is not None
    tried = known(asked, text, folder)
    heal = settled(asked, tried)
    # Trials that are still to come: all rates, of which the best one's steps are those of the healing itself.
    trials = 0 if heal is not None else len(asked.rates) - 1 - len(tried)
    heal = asked if heal is None else heal
    saved = None if heal.lr is None else latest_checkpoint(heal, text, folder)
    left = heal.steps if saved is None else max(0, heal.steps - checkpoint.step_of(saved))
    judged = heal.heldout * (1 + left // heal.eval_every + 2 * trials)
    left += max(0, trials) * (heal.trial_tokens // (heal.windows * heal.length))
    kept = 1 - work.removed
    return kept * heal.length * (left * heal.windows * rates.train + judged * rates.dense)


def _lines(work: _Work) -> int:
    """The number of losses in the journal of a cell that was stopped."""
    return sum(1 for _ in trace.read_trace(work.prepared.cell.folder / trace.NAME))


def _single_bytes(work: _Work, model: LanguageModel) -> int:
    """The bytes of the float32 copy of the model with which a search settles near ties; 0 if it needs none."""
    if work.done is not None or not work.prepared.cell.near_ties.most or model.module.dtype not in HALVES:
        return 0
    return sum(4 * weight.numel() for weight in model.module.parameters())


def _extra_memory(work: _Work, model: LanguageModel, single: int) -> int:
    """The most bytes besides the loaded model: of the search's states, of the training, or of the export."""
    module: nn.Module = model.module
    heal = work.prepared.cell.heal
    width = int(model.module.config.get_text_config(decoder=True).hidden_size)
    tokens = sum(len(row.input_ids) for row in work.prepared.samples.rows)
    states = single + model.info.n_blocks * tokens * width * int(model.module.dtype.itemsize)
    weights = sum(weight.numel() * weight.itemsize for weight in module.parameters())
    if not heal.trains:
        return max(states, 2 * weights)
    blocks = find_blocks(module).modules
    inside = [weight for block in blocks for weight in block.parameters()]
    count, size = sum(w.numel() for w in inside), sum(w.numel() * w.itemsize for w in inside)
    trained = float(count)
    if heal.adapter:
        layers = [one for block in blocks for one in block.modules() if isinstance(one, nn.Linear)]
        trained = sum(heal.rank * (one.in_features + one.out_features) for one in layers)
    kept = 1 - work.removed
    gradients = 0 if heal.adapter else size
    training = kept * (size + TRAINED * trained + gradients + heal.micro_tokens * work.rates.train_bytes)
    return int(max(states, 2 * weights, training))

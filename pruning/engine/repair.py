"""Measure the maps that stand in for removed runs of units (compensation=linear and compensation=diagonal).

Source: ReplaceMe (arXiv 2505.02819). A run of units i..j-1 is removed, and unit u = i - 1 before it stays. If y is
the state before unit u, m what the unit adds, and h_j the dense model's state after the run, then the map T is chosen
so that y + m T is close to h_j, by least squares over the tokens of the calibration samples. T is folded into the
weights of unit u. Units are sub-layers: before a run of whole blocks, u is the MLP of the last block before it, as in
ReplaceMe. Nothing comes before a run at the beginning of the model, so such a run has no map.

All maps are measured on the dense model in one pass, or, with `sequential`, each on the model that is already pruned
and repaired before it, which takes one or two passes for each run, through the blocks up to this run. The states of
one batch of tokens are in memory at a time; the sums take 32 D^2 bytes for each run whose map is measured in the same
pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_names
from pruning.core.result import RepairRecord, RepairRun
from pruning.distributed import collectives
from pruning.engine.dense_pass import RowInBatch, states
from pruning.engine.least_squares import Sums
from pruning.engine.map_settings import TOWARD
from pruning.models.output_maps import Fold, find_fold
from pruning.models.repaired_weights import Repair, check_in_memory, folded_weights, replaced

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward
    from pruning.engine.map_settings import Linear

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Removed sub-layers `first` to `last`, between kept ones."""

    first: int
    last: int

    @property
    def writer(self) -> int:
        """The sub-layer before the run, into which its map is folded; -1 if there is none."""
        return self.first - 1

    def names(self) -> list[str]:
        """The short notation of the removed units."""
        return list(unit_names("sublayer", range(self.first, self.last + 1)))


def runs_of(mask: Mask) -> list[Run]:
    """The maximal runs of removed sub-layers, in order."""
    runs: list[Run] = []
    for unit in mask.as_sublayers().dropped:
        if runs and runs[-1].last == unit - 1:
            runs[-1] = Run(runs[-1].first, unit)
        else:
            runs.append(Run(unit, unit))
    return runs


def check(module: Any, form: str, unit: str) -> None:
    """Raise InputError if no map can be folded into the first block of a model; the others are as a rule like it."""
    for number in (1,) if unit == "block" else (0, 1):
        for name in find_fold(module, number, form).axes.names():
            check_in_memory(module.get_parameter(name))


def measure(forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> tuple[Repair, RepairRecord]:
    """The maps of a mask's runs, measured on the rows of some samples, and a record of how well they fit.

    Raises InputError if no map can be folded into this model, or if there is only one sample.
    """
    if samples.count < 2:
        raise InputError(
            "maps need 2 calibration samples or more, one of them held out: raise calibration.samples."
        )
    module, runs = forward.model.module, runs_of(mask)
    folds = {run: find_fold(module, run.writer, fit.form) for run in runs if run.writer >= 0}
    for run in (run for run in runs if run not in folds):
        log.warning("%s come first in the model: nothing before them can be repaired", " ".join(run.names()))
    for fold in folds.values():
        if fold.form != fit.form:
            log.warning("only a diagonal map is folded into %s: %s", _name(fold.unit), fold.why)
    maps: dict[int, Tensor] = {}
    found: dict[Run, RepairRun] = {}
    for group in [[run] for run in folds] if fit.sequential else [list(folds)]:
        sums = _sums(forward, samples, {run: folds[run] for run in group}, runs, Repair(dict(maps)), fit)
        for run in group:
            solve = partial(_solved, run, folds[run], *sums[run], fit)
            maps[run.writer], found[run] = collectives.on_first(solve)
    records = [found.get(run) or {"removed": run.names(), "folded": None} for run in runs]
    repair = Repair(maps)
    return repair, {
        "form": fit.form,
        "samples": samples.count,
        "tokens": sum(len(row.input_ids) for row in samples.rows),
        "sequential": fit.sequential,
        "runs": records,
        "sha256": repair.sha256,
    }


def _solved(run: Run, fold: Fold, fitted: Sums, heldout: Sums, fit: Linear) -> tuple[Tensor, RepairRun]:
    """The map with the best ridge, measured on all tokens, in float32, and the record of its run."""
    errors = {ridge: heldout.error(fitted.solve(ridge, TOWARD[fit.toward])) for ridge in fit.ridge}
    ridge = min(errors, key=lambda one: errors[one])
    record: RepairRun = {
        "removed": run.names(),
        "folded": _name(fold.unit),
        "form": fold.form,
        "ridge": ridge,
        "error_before": heldout.error(1.0),
        "error_after": errors[ridge],
    }
    if fold.why is not None and fold.form != fit.form:
        record["reason"] = fold.why
    return (fitted + heldout).solve(ridge, TOWARD[fit.toward]).float(), record


def _sums(
    forward: Forward,
    samples: Samples,
    folds: Mapping[Run, Fold],
    runs: Sequence[Run],
    before: Repair,
    fit: Linear,
) -> dict[Run, tuple[Sums, Sums]]:
    """The sums of some runs, over the samples that maps are fitted on, and over those that are held out."""
    sums = {run: (_empty(fold), _empty(fold)) for run, fold in folds.items()}
    held = _heldout(samples, fit.heldout)
    with torch.inference_mode():
        for lines, dense, current, added in _passes(forward, samples, folds, runs, before, fit.sequential):
            for run in folds:
                start, target = current[run.writer], dense[run.last + 1]
                for line in lines:
                    part = line.index, slice(line.length)
                    wanted = target[part].double()
                    inputs, rest = added[run][part].double(), wanted - start[part].double()
                    sums[run][line.row in held].add(inputs, rest)
    return {run: (a.over_ranks(), b.over_ranks()) for run, (a, b) in sums.items()}


def _empty(fold: Fold) -> Sums:
    return Sums.empty(fold.width, fold.form == "diagonal")


def _passes(
    forward: Forward,
    samples: Samples,
    folds: Mapping[Run, Fold],
    runs: Sequence[Run],
    before: Repair,
    sequential: bool,
) -> Iterator[tuple[list[RowInBatch], list[Tensor], list[Tensor], dict[Run, Tensor]]]:
    """Yield each batch: its lines, the dense model's states, the current model's, and what units add to these."""
    first = min((run.first for run in folds), default=0)
    dropped = [u for run in runs if run.first < first for u in range(run.first, run.last + 1)]
    last = max((run.last for run in folds), default=-1)
    dense = states(forward, samples.rows, "sublayer", stop=last + 1)
    if not sequential or not dropped:
        with _Added(folds) as added:
            for lines, hidden in dense:
                yield lines, hidden, hidden, added.of(hidden[0])
        return
    pruned = states(forward, samples.rows, "sublayer", dropped, stop=first)
    weights = folded_weights(forward.model.module, before)
    for lines, hidden in dense:
        with replaced(forward.model.module, weights), _Added(folds) as added:
            _, current = next(pruned)
        yield lines, hidden, current, added.of(hidden[0])


class _Added(ExitStack):
    """Within this context, notes what the sub-layers before some runs add to the state."""

    def __init__(self, folds: Mapping[Run, Fold]) -> None:
        super().__init__()
        self.folds = folds
        self.outputs: dict[Run, Tensor] = {}
        for run, fold in folds.items():
            self.callback(fold.adder.register_forward_hook(self._noting(run)).remove)

    def _noting(self, run: Run) -> Any:
        # Both parts of a block are run one after the other, and the part that is not run returns something, too.
        first = run.writer % 2 == 0

        def hook(_module: Any, _args: Any, output: Any) -> None:
            if not first or run not in self.outputs:
                self.outputs[run] = output[0] if isinstance(output, tuple) else output

        return hook

    def of(self, like: Tensor) -> dict[Run, Tensor]:
        """What each sub-layer has added in the last pass, (B, T, D) as the states."""
        found = {}
        for run, output in self.outputs.items():
            factor = self.folds[run].factor
            values = output.to(like.device).view_as(like)
            found[run] = values if factor == 1.0 else values.double() * factor
        self.outputs.clear()
        return found


def _heldout(samples: Samples, every: int) -> set[int]:
    """The numbers of the rows of every so many samples, at least of one."""
    every, rows, row = min(every, samples.count), set[int](), 0
    for number, unit in enumerate(samples.units, start=1):
        if number % every == 0:
            rows |= set(range(row, row + len(unit)))
        row += len(unit)
    return rows


def _name(unit: int) -> str:
    return unit_names("sublayer", [unit])[0]

"""Passes over calibration samples that sum up what the maps of removed runs are fitted to; see `repair.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruning.core.mask import Mask, unit_names
from pruning.engine.dense_pass import RowInBatch, states
from pruning.engine.least_squares import Sums
from pruning.models.output_maps import Fold
from pruning.models.repaired_weights import Repair, folded_weights, replaced

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward
    from pruning.engine.map_settings import Linear


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


def run_sums(
    forward: Forward,
    samples: Samples,
    folds: Mapping[Run, Fold],
    runs: Sequence[Run],
    before: Repair,
    fit: Linear,
) -> dict[Run, tuple[Sums, Sums]]:
    """The sums of some runs: over the samples that maps are fitted on, and over those that are held out.

    With `fit.sequential`, M and Y are those of the model without the earlier of all `runs`, repaired by `before`.
    """
    sums = {run: (_empty(fold), _empty(fold)) for run, fold in folds.items()}
    held = heldout_rows(samples, fit.heldout)
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


def heldout_rows(samples: Samples, every: int) -> set[int]:
    """The numbers of the rows of every so many samples of each source, at least of one.

    A source with a single sample keeps it for the fit, unless all sources have a single one.
    """
    sources = [unit[0].source for unit in samples.units]
    counts = {source: sources.count(source) for source in sources}
    if max(counts.values()) < 2:
        sources, counts = [""] * len(sources), {"": len(sources)}
    rows, row, seen = set[int](), 0, dict.fromkeys(counts, 0)
    for source, unit in zip(sources, samples.units, strict=True):
        seen[source] += 1
        if counts[source] > 1 and seen[source] % min(every, counts[source]) == 0:
            rows |= set(range(row, row + len(unit)))
        row += len(unit)
    return rows

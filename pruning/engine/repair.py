"""Measure the linear maps that replace removed runs of units (compensation=linear).

Source: ReplaceMe (arXiv 2505.02819). A run of units i..j-1 is removed, and the preceding unit, u = i - 1, is kept.
Let y be the state before unit u, m what unit u adds, and h_j the dense model's state after the run. Least
squares over the calibration tokens gives the map T with y + m T closest to h_j. T is folded into the weights
of unit u. Units are sub-layers, so before a run of whole blocks, u is the MLP of the preceding block, as in
ReplaceMe. A run at the beginning of the model has no unit before it, and so no map. If unit u normalises what
it adds, only a diagonal T can be folded in.

Deviations from ReplaceMe: each map is fitted on the model in which earlier runs are already removed and repaired.
A large ridge moves T towards the identity, a map without effect. A map is kept only if it does not raise the
pruned model's held-out loss on any source of samples. Otherwise, maps with a larger ridge, which change less,
are tried. If all of these fail, the run has no map.

Fitting a run's map takes one or two passes over the samples, through the blocks up to the run's end. The
states of one batch of tokens are in memory at a time. The sums from which T is computed take 32 D^2 bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_names
from pruning.core.records import RepairRecord, RepairRun
from pruning.engine import collectives
from pruning.engine.dense_pass import states
from pruning.models.output_maps import Fold, Repair, find_fold, folded_weights, repaired, replaced

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.compensation import Linear
    from pruning.engine.forward import Forward

FORM = "linear"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A maximal run of removed sub-layers: `first` to `last`."""

    first: int
    last: int

    @property
    def writer(self) -> int:
        """The sub-layer before the run, into which the run's map is folded; -1 if there is none."""
        return self.first - 1

    @property
    def units(self) -> range:
        """The removed sub-layers."""
        return range(self.first, self.last + 1)

    def names(self) -> list[str]:
        """The short notation of the removed units."""
        return list(unit_names("sublayer", self.units))


def runs_of(mask: Mask) -> list[Run]:
    """The maximal runs of removed sub-layers, in order."""
    runs: list[Run] = []
    for unit in mask.as_sublayers().dropped:
        if runs and runs[-1].last == unit - 1:
            runs[-1] = Run(runs[-1].first, unit)
        else:
            runs.append(Run(unit, unit))
    return runs


def check(module: Any, unit: str, samples: Samples) -> None:
    """Raise InputError if masks over units of this kind cannot be repaired with these samples.

    The reason is that no map can be folded into the model's first block (the other blocks are usually alike),
    or that there is only one sample.
    """
    if samples.count < 2:
        raise InputError(
            "maps need 2 calibration samples or more, one of them held out: raise calibration.samples."
        )
    for number in (1,) if unit == "block" else (0, 1):
        fold = find_fold(module, number)
    tokens = sum(len(row.input_ids) for row in samples.rows)
    if fold.form == FORM and tokens < fold.width:
        log.warning(
            "a linear map of %d dimensions is fitted to only %d tokens, so the map may overfit: raise "
            "calibration.samples or calibration.length",
            *(fold.width, tokens),
        )


def measure(forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> tuple[Repair, RepairRecord]:
    """Fit a map for each run. Return those that do not raise the held-out loss, and records of all fits.

    Raises InputError as `check` does.
    """
    runs, samples = runs_of(mask), samples.labelled()
    judge = _Judge(forward, samples, mask, fit)
    maps: dict[int, Tensor] = {}
    records: list[RepairRun] = []
    for number, run in enumerate(runs):
        if run.writer < 0:
            log.warning("%s come first: nothing before them can be repaired", " ".join(run.names()))
            records.append({"removed": run.names(), "folded": None})
            continue
        fold = find_fold(forward.model.module, run.writer)
        if fold.form != FORM:
            log.warning("only a diagonal map is folded into %s: %s", _name(fold.unit), fold.why)
        fitted, heldout = _run_sums(forward, samples, run, fold, runs[:number], Repair(dict(maps)), fit)
        record, ridge = judge.record(run, fold, fitted, heldout)
        records.append(record)
        if ridge is not None:
            maps[run.writer] = _map(fitted + heldout, ridge)
    repair = Repair(maps)
    return repair, {
        "form": FORM,
        "samples": samples.count,
        "tokens": sum(len(row.input_ids) for row in samples.rows),
        "sequential": True,
        "runs": records,
        "sha256": repair.sha256,
    }


class _Judge:
    """Chooses each map's ridge, and rejects a map if it raises the loss; uses held-out samples for both."""

    def __init__(self, forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> None:
        self.forward, self.mask, self.fit = forward, mask, fit
        held = heldout_rows(samples, fit.heldout)
        # For an item, only the right answer counts.
        self.rows = [row for n, row in enumerate(samples.rows) if n in held and row.right is not False]
        self.kept: dict[int, Tensor] = {}  # maps of earlier runs, fitted without the held-out samples
        self.losses = self._losses({})

    def record(self, run: Run, fold: Fold, fitted: Sums, heldout: Sums) -> tuple[RepairRun, float | None]:
        """The record of a run, and the ridge of its map (None if every map raises the held-out loss)."""
        errors = collectives.on_first(
            lambda: {ridge: heldout.error(fitted.solve(ridge)) for ridge in self.fit.ridge}
        )
        best = min(errors, key=lambda one: errors[one])
        weaker = sorted(ridge for ridge in errors if ridge > best)
        record: RepairRun = {"removed": run.names(), "folded": None, "error_before": heldout.error(None)}
        for ridge in (best, *weaker):
            trial = {**self.kept, run.writer: _map(fitted, ridge)}
            losses = self._losses(trial)
            record["loss_before"], record["loss_after"] = self.losses, losses
            if not (worse := [source for source, loss in losses.items() if not loss <= self.losses[source]]):
                break
        else:
            log.warning(
                "no map was kept for %s: on held-out text of %s, the loss would rise from %.4f to %.4f. "
                "More calibration.samples may help",
                *(" ".join(run.names()), worse[0], self.losses[worse[0]], losses[worse[0]]),
            )
            return record | {"reason": f"the held-out loss would rise on {', '.join(worse)}"}, None
        if ridge != best:
            log.info(
                "the map for %s has the ridge %g in place of %g, which raised the loss on held-out text",
                *(" ".join(run.names()), ridge, best),
            )
        self.kept, self.losses = trial, losses
        record |= {"folded": _name(fold.unit), "form": fold.form, "ridge": ridge}
        record["error_after"] = errors[ridge]
        if fold.why is not None and fold.form != FORM:
            record["reason"] = fold.why
        return record, ridge

    def _losses(self, maps: dict[int, Tensor]) -> dict[str, float]:
        """The loss of the pruned model with `maps` on each source's held-out samples, in nats per token."""
        with repaired(self.forward.model.module, Repair(maps)):
            ((_, values, _),) = self.forward.fresh().loglikelihoods(self.rows, [self.mask])
        sums: dict[str, float] = {}
        tokens: dict[str, int] = {}
        for row, value in zip(self.rows, values, strict=True):
            sums[row.source] = sums.get(row.source, 0.0) - value
            tokens[row.source] = tokens.get(row.source, 0) + row.span[1] - row.span[0]
        return {source: total / tokens[source] for source, total in sums.items()}


def _map(sums: Sums, ridge: float) -> Tensor:
    """The map for a ridge, in float32; equal on all ranks."""
    return collectives.on_first(lambda: sums.solve(ridge).float())


def _name(unit: int) -> str:
    return unit_names("sublayer", [unit])[0]


def heldout_rows(samples: Samples, every: int) -> set[int]:
    """The indices of the held-out rows. Every n-th sample of each source is held out (n = `every`), but at least one.

    A source's only sample is not held out. If each source has only one sample, all sources count as one.
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


# Least squares from sums over tokens: the map T, near the identity I, that brings M T closest to R.
#
# With m_t (what unit u adds) in M and r_t = h_j - y in R, one row per token t, T minimises
#
#     sum over t of |m_t T - r_t|^2  +  a mean(diag G) |T - I|^2        G = M' M,  C = M' R
#
# so T = I + (G + a mean(diag G) I)^-1 (C - G). Only G and C are kept, in float64. They take 16 D^2 bytes (D =
# 4096: 270 MB), or 16 D bytes for a diagonal T, for any number of tokens.


@dataclass
class Sums:
    """The sum of |r_t|^2, and the matrices G and C (D, D) or, for a diagonal T, their diagonals (D,); see above."""

    gram: Tensor
    cross: Tensor
    square: float = 0.0

    @classmethod
    def empty(cls, fold: Fold) -> Sums:
        """Sums over zero tokens, in the shapes that the map of `fold` needs."""
        shape = (fold.width, fold.width) if fold.form == FORM else (fold.width,)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add n tokens: their rows of M (`inputs`) and of R (`targets`), of shape (n, D), in float64."""
        self.gram, self.cross = self.gram.to(inputs.device), self.cross.to(inputs.device)
        if self.gram.dim() == 1:
            self.gram += (inputs * inputs).sum(0)
            self.cross += (inputs * targets).sum(0)
        else:
            self.gram.addmm_(inputs.T, inputs)
            self.cross.addmm_(inputs.T, targets)
        self.square += float((targets * targets).sum())

    def over_ranks(self) -> Sums:
        """The sums over the tokens of all ranks, on the CPU."""
        gram, cross = (
            torch.from_numpy(collectives.all_sum(x.cpu().numpy())) for x in (self.gram, self.cross)
        )
        return Sums(gram, cross, float(collectives.all_sum(np.array([self.square]))[0]))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.gram + other.gram, self.cross + other.cross, self.square + other.square)

    def solve(self, ridge: float) -> Tensor:
        """The map T in float64; `ridge` is the factor a in the formula above `Sums`."""
        if self.gram.dim() == 1:
            rest = self.gram + ridge * self.gram.mean()
            change: Tensor = (self.cross - self.gram) / torch.where(rest > 0, rest, 1.0)
            return 1.0 + change
        penalty = ridge * self.gram.diagonal().mean()
        system = self.gram + penalty * torch.eye(len(self.gram), dtype=torch.float64)
        solved = torch.cholesky_solve(self.cross - self.gram, torch.linalg.cholesky(system))
        solved.diagonal().add_(1.0)
        return solved

    def error(self, change: Tensor | None) -> float:
        """The sum of |m_t T - r_t|^2, divided by the sum of |r_t|^2; `change` is T, or None for the identity."""
        if change is None:
            gram, cross = (
                float(sums.sum() if sums.dim() == 1 else sums.trace()) for sums in (self.gram, self.cross)
            )
            loss = self.square - 2 * cross + gram
        elif self.gram.dim() == 1:
            loss = self.square - float((change * (2 * self.cross - change * self.gram)).sum())
        else:
            loss = self.square - float((change * (2 * self.cross - self.gram @ change)).sum())
        return max(0.0, loss) / self.square if self.square else 0.0


def _run_sums(
    forward: Forward,
    samples: Samples,
    run: Run,
    fold: Fold,
    earlier: Sequence[Run],
    before: Repair,
    fit: Linear,
) -> tuple[Sums, Sums]:
    """A run's sums over the samples for fitting, and those over the held-out samples.

    M and the states y are from the model without the `earlier` runs, which the maps `before` repair.
    """
    module, rows, held = forward.model.module, samples.rows, heldout_rows(samples, fit.heldout)
    sums, outputs = (Sums.empty(fold), Sums.empty(fold)), list[Tensor]()
    dropped, weights = [unit for other in earlier for unit in other.units], folded_weights(module, before)

    def note(_module: Any, _args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = fold.adder.register_forward_hook(note)
    try:
        with torch.inference_mode():
            pruned = states(forward, rows, "sublayer", dropped, stop=run.first)
            for lines, dense in states(forward, rows, "sublayer", stop=run.last + 1):
                current = dense
                if dropped:
                    outputs.clear()
                    with replaced(module, weights):
                        _, current = next(pruned)
                # A block's sub-layers run one at a time; the hook also notes the output of the disabled one.
                output = outputs[-1 if run.writer % 2 else 0].to(dense[0].device).view_as(dense[0])
                added = output if fold.factor == 1.0 else output.double() * fold.factor
                outputs.clear()
                for line in lines:
                    part = line.index, slice(line.length)
                    rest = dense[run.last + 1][part].double() - current[run.writer][part].double()
                    sums[line.row in held].add(added[part].double(), rest)
    finally:
        handle.remove()
    return sums[0].over_ranks(), sums[1].over_ranks()

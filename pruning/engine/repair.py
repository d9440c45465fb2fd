"""Measure the maps that stand in for removed runs of units (compensation=linear and compensation=diagonal).

Source: ReplaceMe (arXiv 2505.02819). A run of units i..j-1 is removed, and unit u = i - 1 before it stays. If y is
the state before unit u, m what the unit adds, and h_j the dense model's state after the run, then the map T is chosen
so that y + m T is close to h_j, by least squares over the tokens of the calibration samples. T is folded into the
weights of unit u. Units are sub-layers: before a run of whole blocks, u is the MLP of the last block before it, as in
ReplaceMe. Nothing comes before a run at the beginning of the model, so such a run has no map.

A map is kept only if it helps: on samples that it was not fitted on, the loss of the pruned model must not rise in
any source of the samples. If it does, maps with a larger ridge are tried, which change less, and then none.

All maps are measured on the dense model in one pass, or, with `sequential`, each on the model that is already pruned
and repaired before it, which takes one or two passes for each run, through the blocks up to this run. The states of
one batch of tokens are in memory at a time; the sums take 32 D^2 bytes for each run whose map is measured in the same
pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_names
from pruning.core.repair_record import RepairRecord, RepairRun
from pruning.distributed import collectives
from pruning.engine.least_squares import Sums
from pruning.engine.map_settings import TOWARD
from pruning.engine.repair_sums import Run, heldout_rows, run_sums, runs_of
from pruning.models.output_maps import Fold, find_fold
from pruning.models.repaired_weights import Repair, check_in_memory, repaired

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward
    from pruning.engine.map_settings import Linear

log = logging.getLogger(__name__)


def check(module: Any, form: str, unit: str, samples: Samples) -> None:
    """Raise InputError if a mask over such units could not be repaired on these samples.

    That is so if no map can be folded into the first block of the model (the other blocks are as a rule like it), if
    its weights are on disk, or if there is only one sample.
    """
    if samples.count < 2:
        raise InputError(
            "maps need 2 calibration samples or more, one of them held out: raise calibration.samples."
        )
    for number in (1,) if unit == "block" else (0, 1):
        fold = find_fold(module, number, form)
        for name in fold.axes.names():
            check_in_memory(module.get_parameter(name))
    tokens = sum(len(row.input_ids) for row in samples.rows)
    if fold.form == "linear" and tokens < fold.width:
        log.warning(
            "a linear map of %d dimensions is fitted to only %d tokens, so the map may overfit: raise "
            "calibration.samples or calibration.length",
            *(fold.width, tokens),
        )


def measure(forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> tuple[Repair, RepairRecord]:
    """The maps of a mask's runs that help, measured on the rows of some samples, and a record of how well they fit.

    Raises InputError as `check` does.
    """
    runs, samples = runs_of(mask), samples.labelled()
    folds = _folds(forward.model.module, runs, fit.form)
    judge = _Judge(forward, samples, mask, fit)
    maps: dict[int, Tensor] = {}
    found: dict[Run, RepairRun] = {}
    for group in [[run] for run in folds] if fit.sequential else [list(folds)]:
        sums = run_sums(forward, samples, {run: folds[run] for run in group}, runs, Repair(dict(maps)), fit)
        for run in group:
            found[run], ridge = judge.record(run, folds[run], *sums[run])
            if ridge is not None:
                whole = partial(_map, sums[run][0] + sums[run][1], ridge, fit)
                maps[run.writer] = collectives.on_first(whole)
    repair = Repair(maps)
    return repair, {
        "form": fit.form,
        "samples": samples.count,
        "tokens": sum(len(row.input_ids) for row in samples.rows),
        "sequential": fit.sequential,
        "runs": [found.get(run) or {"removed": run.names(), "folded": None} for run in runs],
        "sha256": repair.sha256,
    }


def _folds(module: Any, runs: Sequence[Run], form: str) -> dict[Run, Fold]:
    """Where the maps of runs are folded in; a run at the beginning is left out, and the log says so."""
    folds = {run: find_fold(module, run.writer, form) for run in runs if run.writer >= 0}
    for run in (run for run in runs if run not in folds):
        log.warning("%s come first in the model: nothing before them can be repaired", " ".join(run.names()))
    for fold in folds.values():
        if fold.form != form:
            log.warning("only a diagonal map is folded into %s: %s", _name(fold.unit), fold.why)
    return folds


class _Judge:
    """Chooses the ridge of each map, and rejects maps that harm, on the samples that maps are not fitted on."""

    def __init__(self, forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> None:
        self.forward, self.mask, self.fit = forward, mask, fit
        held = heldout_rows(samples, fit.heldout)
        # Of an item, only the right answer says how good the model is.
        self.rows = [row for n, row in enumerate(samples.rows) if n in held and row.right is not False]
        self.kept: dict[int, Tensor] = {}  # maps of earlier runs, fitted without the held-out samples
        self.losses = self._losses({})

    def record(self, run: Run, fold: Fold, fitted: Sums, heldout: Sums) -> tuple[RepairRun, float | None]:
        """The record of a run, and the ridge of its map; None if no map helps."""
        toward = TOWARD[self.fit.toward]
        errors = collectives.on_first(
            lambda: {ridge: heldout.error(fitted.solve(ridge, toward)) for ridge in self.fit.ridge}
        )
        best = min(errors, key=lambda one: errors[one])
        weaker = sorted(ridge for ridge in errors if ridge > best) if toward == 1.0 else []
        record: RepairRun = {"removed": run.names(), "folded": None, "error_before": heldout.error(1.0)}
        for ridge in (best, *weaker):
            trial = {**self.kept, run.writer: collectives.on_first(partial(_map, fitted, ridge, self.fit))}
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
        record |= {
            "folded": _name(fold.unit),
            "form": fold.form,
            "ridge": ridge,
            "error_after": errors[ridge],
        }
        if fold.why is not None and fold.form != self.fit.form:
            record["reason"] = fold.why
        return record, ridge

    def _losses(self, maps: dict[int, Tensor]) -> dict[str, float]:
        """The loss of the pruned model with some maps, in nats per token, on the held-out samples of each source."""
        with repaired(self.forward.model.module, Repair(maps)):
            ((_, values, _),) = self.forward.fresh().loglikelihoods(self.rows, [self.mask])
        sums: dict[str, float] = {}
        tokens: dict[str, int] = {}
        for row, value in zip(self.rows, values, strict=True):
            sums[row.source] = sums.get(row.source, 0.0) - value
            tokens[row.source] = tokens.get(row.source, 0) + row.span[1] - row.span[0]
        return {source: total / tokens[source] for source, total in sums.items()}


def _map(sums: Sums, ridge: float, fit: Linear) -> Tensor:
    """The map with a ridge, in float32."""
    return sums.solve(ridge, TOWARD[fit.toward]).float()


def _name(unit: int) -> str:
    return unit_names("sublayer", [unit])[0]

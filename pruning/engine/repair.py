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
from pruning.engine.repair_sums import Run, run_sums, runs_of
from pruning.models.output_maps import Fold, find_fold
from pruning.models.repaired_weights import Repair, check_in_memory

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
        for name in find_fold(module, number, form).axes.names():
            check_in_memory(module.get_parameter(name))


def measure(forward: Forward, samples: Samples, mask: Mask, fit: Linear) -> tuple[Repair, RepairRecord]:
    """The maps of a mask's runs, measured on the rows of some samples, and a record of how well they fit.

    Raises InputError as `check` does.
    """
    check(forward.model.module, fit.form, mask.unit, samples)
    runs = runs_of(mask)
    folds = _folds(forward.model.module, runs, fit.form)
    maps: dict[int, Tensor] = {}
    found: dict[Run, RepairRun] = {}
    for group in [[run] for run in folds] if fit.sequential else [list(folds)]:
        sums = run_sums(forward, samples, {run: folds[run] for run in group}, runs, Repair(dict(maps)), fit)
        for run in group:
            solve = partial(_solved, run, folds[run], *sums[run], fit)
            maps[run.writer], found[run] = collectives.on_first(solve)
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


def _name(unit: int) -> str:
    return unit_names("sublayer", [unit])[0]

"""The masks of a study before and after repair and healing, with the loss of each held-out window.

A state of a mask is what was done to it: nothing, repair, or healing on a number of tokens. If several cells found a
mask, it counts once. Repair and healing depend on the calibration draw: maps are fitted to its samples, and healing
leaves their text out of its training. So a state's losses are averaged over draws and seeds.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core import storage
from pruning.core.mask import Mask
from pruning.core.records import EVALUATION, FOLDER, RECORD, is_repaired, read_done
from pruning.healing.heal_settings import RUNNING

from .agreement import spearman
from .components import IntervalEstimate
from .grid import NO_COMPENSATION, bare
from .same_samples import WindowPairsLosses, joined, losses_of, window_losses

REPAIR = "linear"  # the compensation that is a repair
VARIED = ("tokens", "seed", *RUNNING)  # settings of healing that may differ within a comparison
Matrix = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class State:
    """What was done to a mask. States are ordered: `pruned`, `repaired`, then healed, ascending in tokens."""

    tokens: int = 0
    kind: str = "pruned"

    @property
    def label(self) -> str:
        """The state in words."""
        return f"{self.tokens:,} tokens" if self.tokens else self.kind


PRUNED, REPAIRED = State(), State(kind="repaired")


@dataclass
class HealedMask:
    """A mask, where it comes from, and the losses (windows,) of the dense model and of each state.

    `states` has the losses of each run of a state. `runs` has each run's state, its samples' digest, and its seed.
    """

    mask: Mask
    dense: WindowPairsLosses
    found_by: list[str] = field(default_factory=list)
    states: dict[State, list[WindowPairsLosses]] = field(default_factory=lambda: defaultdict(list))
    runs: set[tuple[State, str, int]] = field(default_factory=set)

    def add(self, state: State, losses: WindowPairsLosses | None, samples: str, seed: int = 0) -> None:
        """Add the losses of a run to its state, unless another cell with this mask, samples and seed added them."""
        run = (state, "" if state == PRUNED else samples, seed)
        if losses is not None and run not in self.runs:
            self.runs.add(run)
            self.states[state].append(losses)

    def losses(self, state: State) -> WindowPairsLosses:
        """The losses (windows,) of a state, averaged over its runs."""
        return np.asarray(np.mean(self.states[state], axis=0), float)


def healed_masks(
    results: Path, cells: pd.DataFrame, metrics: Sequence[str]
) -> dict[tuple[str, float], list[HealedMask]]:
    """The distinct masks of each model and ratio, with the losses on the windows of some metrics.

    Only the most frequent settings of healing are used, so that masks differ in nothing else. A mask is left out if
    its losses per window were not stored.
    """
    values = [f"pruned/{metric}" for metric in metrics if f"pruned/{metric}" in cells]
    cells = cells.dropna(subset=values)  # without cells that were measured on other windows than most
    healings = {cell: list(_healings(results / str(cell))) for cell in cells["cell"]}
    settings = Counter(comparable(one) for known in healings.values() for one, _ in known)
    chosen = max(settings, key=lambda text: (settings[text], text), default=None)
    found: dict[tuple[str, float], dict[Mask, HealedMask]] = defaultdict(dict)
    for row in cells.to_dict("records"):
        result: Any = read_done(results / str(row["cell"]))
        mask, dense = Mask.from_json(result["mask"]), window_losses(results, result, metrics, "dense")
        if dense is None:
            continue
        one = found[bare(str(row["model"])), float(row["ratio"])].setdefault(mask, HealedMask(mask, dense))
        one.found_by.append(f"{row['objective']} {row['algo']}" if row["algo"] != "random" else "random")
        samples, compensation = str(result["calibration"]["sha256"]), row["compensation"]
        plain = compensation == NO_COMPENSATION
        rejected = "repair" in result and not is_repaired(result["repair"])  # no map helped
        changed = not plain and not rejected
        before = window_losses(results, result, metrics, "uncompensated" if changed else "pruned")
        one.add(PRUNED, before, samples)
        if compensation == REPAIR and changed:
            one.add(REPAIRED, window_losses(results, result, metrics), samples)
        for of, path in healings[row["cell"]] if plain else ():  # masks healed after repair are not compared
            if comparable(of) == chosen:
                losses = joined([_healed_losses(results, path, result, metric) for metric in metrics])
                one.add(State(of["tokens"], "healed"), losses, samples, of["seed"])
    return {of: [one for one in masks.values() if PRUNED in one.states] for of, masks in found.items()}


def _healings(cell: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The settings and the folder of each finished training run that healed the cell's own mask."""
    for path in sorted((cell / FOLDER).glob(f"*/{RECORD}")):
        if "settings" in (record := _read(path)):
            yield record["settings"], path.parent


def _healed_losses(results: Path, healing: Path, result: Any, metric: str) -> WindowPairsLosses | None:
    """The losses of a healed mask; None if they are missing or on other windows than those of the pruned mask."""
    kept = _read(healing / EVALUATION).get("records", {}).get(metric)
    of_mask = Path(result["evaluation"].get("records", {}).get(metric, {}).get("pruned", ""))
    same = kept is not None and Path(kept).parent.name.startswith(f"{of_mask.parent.name}-healed-")
    return losses_of(results / kept) if same else None


def comparable(settings: dict[str, Any]) -> str:
    """The settings, as text, that healed masks must share to be compared: all except those in VARIED."""
    return json.dumps({k: v for k, v in settings.items() if k not in VARIED}, sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    """The record in a file; empty if the file is missing."""
    with suppress(FileNotFoundError):
        return dict(storage.read_json(path))
    return {}


# Does the choice of the mask still matter after repair and healing? Statistics with percentile bootstrap intervals
# (Efron and Tibshirani 1993, section 13.3). A resample draws masks and windows with replacement, the same windows for
# all masks and states, because a window that is hard for one mask is hard for the others.

RESAMPLES = 2000
FEWEST = 4  # masks; with fewer, no statistics are given
NEAR = 2.0  # masks near the best one add at most this multiple of the loss that the best one adds


def statistics(masks: Sequence[HealedMask], resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """A row for each state, except pruned, that at least FEWEST masks have: how much these masks differ in loss.

    `masks` is the number of masks, and `correlation` is Spearman's, between their held-out losses when pruned and in
    this state. `spread` is the standard deviation of the losses over masks, in nats, and `spread_before` that
    of the pruned masks. The ends of these statistics' intervals have the suffixes `_low` and `_high`.
    """
    rows = []
    for state in sorted({state for one in masks for state in one.states if state != PRUNED}):
        having = [one for one in masks if state in one.states]
        if len(having) < FEWEST:
            continue
        before, after = (np.stack([one.losses(which) for one in having]) for which in (PRUNED, state))
        rng = np.random.default_rng(0)
        first, second = [before.mean(1)], [after.mean(1)]  # first for the study, then for its resamples
        for _ in range(resamples):
            drawn = rng.integers(0, len(having), len(having))
            windows = rng.integers(0, before.shape[1], before.shape[1])
            first.append(before[drawn][:, windows].mean(1))
            second.append(after[drawn][:, windows].mean(1))
        old, new = np.array(first), np.array(second)
        spreads = {"spread_before": old.std(axis=1, ddof=1), "spread": new.std(axis=1, ddof=1)}
        row: dict[str, Any] = {"state": state, "masks": len(having)}
        for name, values in {"correlation": spearman(old, new), **spreads}.items():
            found = _interval(values)
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return rows


def _interval(values: Matrix) -> IntervalEstimate:
    """The first value, with a percentile interval of the others, which are resamples."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return IntervalEstimate(float(values[0]), float(low), float(high))


def near_best(masks: Sequence[HealedMask]) -> list[HealedMask]:
    """The masks that, when pruned, add at most NEAR times the loss that the best mask adds."""
    least = min(lost(one, PRUNED) for one in masks)
    most = least + (NEAR - 1) * abs(least)  # a mask can be better than the dense model
    return [one for one in masks if lost(one, PRUNED) <= most]


def lost(one: HealedMask, state: State) -> float:
    """The held-out loss of a mask in a state minus that of the dense model, in nats per token."""
    return float((one.losses(state) - one.dense).mean())


def regained(one: HealedMask, state: State, resamples: int = RESAMPLES) -> IntervalEstimate:
    """The share of the loss added by pruning that a state regains, with an interval over windows."""
    rows = np.stack([one.losses(PRUNED), one.losses(state), one.dense])
    windows = np.random.default_rng(0).integers(0, rows.shape[1], (resamples, rows.shape[1]))
    pruned, after, dense = np.column_stack([rows.mean(-1), rows[:, windows].mean(-1)])
    return _interval((pruned - after) / (pruned - dense))

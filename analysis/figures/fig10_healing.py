"""Figure 10: whether masks still differ after repair and after healing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning.core.records import read_result

from ..data.archive import NothingToRead
from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..stats.grid import each
from ..stats.healed import PRUNED, REPAIRED, HealedMask, healed_masks, lost, near_best, regained, statistics
from . import style
from .cli import Drawing, StudyFigure
from .style import INK, named, rows_of

KINDS = {"search": "#333333", "single scores": "#B8860B", "sub-layers": "#6A51A3", "random": "#999999"}
LINEAR = 0.1  # nats; the scale is linear below this if a mask is better than the dense model
Masks = dict[tuple[str, float], list[HealedMask]]


def healed(results: Path, frame: pd.DataFrame, metric: Metric) -> Masks:
    """Masks of each (model, ratio) with several masks, some of them repaired or healed. Can raise NothingToRead."""
    found = {
        stratum: masks
        for stratum, masks in healed_masks(results, done(frame), metric.names).items()
        if len(masks) > 1 and any(len(one.states) > 1 for one in masks)
    }
    if not found:
        raise NothingToRead(
            f"there are no two masks of one model and size, one of them repaired or healed, with {metric.label} of "
            "each window: run experiment=heal, or give heal=lora or compensation=linear to a grid."
        )
    return found


def kind(one: HealedMask) -> str:
    """How a mask was found: one of the four keys of KINDS."""
    if one.mask.unit != "block":
        return "sub-layers"
    names = [name for name in one.found_by if name != "random"]
    if not names:
        return "random"
    return "single scores" if all(name.endswith("one_shot") for name in names) else "search"


def table(masks: Masks) -> pd.DataFrame:
    """One row for each mask and state: loss, perplexity, and how much of the loss added by pruning is regained.

    If the windows come from several corpora, the perplexity is a geometric mean over windows.
    """
    rows = []
    for (model, ratio), some in masks.items():
        for one in sorted(some, key=lambda one: float(one.losses(PRUNED).mean())):
            found_by = ", ".join(dict.fromkeys(one.found_by))
            for state in sorted(one.states):
                share, loss = regained(one, state), float(one.losses(state).mean())
                of = [
                    model,
                    ratio,
                    " ".join(one.mask.names()),
                    found_by,
                    kind(one),
                    state.label,
                    state.tokens,
                ]
                ppl = [loss, float(np.exp(loss)), float(np.exp(one.dense.mean()))]
                counts = [len(one.states[state]), len(one.dense)]
                rows.append([*of, *counts, *ppl, share.value, share.low, share.high])
    columns = ["model", "ratio", "dropped", "found_by", "kind", "state", "tokens", "runs", "windows"]
    columns += ["loss", "ppl", "dense_ppl", "regained", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def summary(masks: Masks) -> pd.DataFrame:
    """One row for each model, ratio and state: correlation and spread of losses, with intervals.

    If some masks are far from the best one (`near_best`), further rows describe only the masks near the best.
    """
    rows = []
    for (model, ratio), some in masks.items():
        near = near_best(some)
        sets = {"all": some} | ({"near the best": near} if len(near) < len(some) else {})
        found: list[dict[str, Any]] = []
        for of, own in sets.items():
            found += [{"model": model, "ratio": ratio, "of": of} | row for row in statistics(own)]
        found.sort(key=lambda row: row["state"])
        rows += [row | {"state": row["state"].label} for row in found]
    return pd.DataFrame(rows)


def draw(masks: Masks, correlations: pd.DataFrame, metric: Metric) -> Figure:
    """A row of three panels for each model and ratio."""
    some = [one for of in masks.values() for one in of]
    windows = max(len(one.losses(PRUNED)) for one in some)
    note = f"held-out loss: mean over {windows} windows of {metric.sets}; a line is a mask, a cross "
    note += "the repaired mask; intervals: 95 %, in the middle over masks and windows, right over windows"
    if len(correlations) and (correlations["of"] != "all").any():
        note += "; open circles: masks that cost at most twice the best one"
    figure, grid = style.page(len(masks), 3, 2.3, "Do masks still differ after repair and healing?", note)
    for axes, ((model, ratio), of) in zip(grid, masks.items(), strict=True):
        _curves(axes[0], of)
        own = rows_of(correlations, model=model, ratio=ratio) if len(correlations) else correlations
        _correlations(axes[1], list(each(own)))
        _shares(axes[2], of)
        axes[0].set_title(f"{named(model)}, {100 * ratio:g} % removed")
    return figure


def _curves(axes: Axes, masks: Sequence[HealedMask]) -> None:
    states = sorted({state for one in masks for state in one.states if state != REPAIRED})
    for one in masks:
        own = {x: lost(one, state) for x, state in enumerate(states) if state in one.states}
        axes.plot([*own], [*own.values()], marker="o", color=KINDS[kind(one)], lw=0.8, ms=3, mew=0)
        if REPAIRED in one.states:
            axes.plot(-0.3, lost(one, REPAIRED), "x", color=KINDS[kind(one)], ms=4, mew=1)
    for i, name in enumerate(name for name in KINDS if name in {*map(kind, masks)}):
        axes.text(
            0.98, 0.98 - 0.09 * i, name, color=KINDS[name], transform=axes.transAxes, ha="right", va="top"
        )
    if min(lost(one, state) for one in masks for state in one.states) > 0:
        axes.set_yscale("log")
    else:  # a healed mask can be better than the dense model
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    axes.set_xlim(-0.6, len(states) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 6)  # room for the names of the kinds
    if axes.get_yscale() == "log":
        style.plain_log(axes.yaxis)
    tokens = ["0" if not state.tokens else f"{state.tokens / 1000:.3g}k" for state in states]
    axes.set_xticks(range(len(states)), tokens)
    axes.set(ylabel="held-out loss above the unpruned\nmodel's, nats per token", xlabel="tokens of healing")


def _correlations(axes: Axes, found: Sequence[Any]) -> None:
    if not found:
        style.empty(axes, "fewer than four masks\nwere repaired or healed")
        return
    for y, one in enumerate(found):
        ends, fill = (one.correlation_low, one.correlation_high), INK if one.of == "all" else "white"
        style.dots(axes, one.correlation, y, ends, INK, mec=INK, mfc=fill)
        axes.text(one.correlation, y - 0.14, style.signed(one.correlation), ha="center", va="bottom")
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set_xlim(min(-0.05, *(one.correlation_low - 0.05 for one in found)), 1.05)
    axes.set_ylim(len(found) - 0.4, -0.6)
    names = [
        f"{one.state}, {one.masks} masks" if one.of == "all" else f"{one.masks} {one.of}" for one in found
    ]
    axes.set_yticks(range(len(found)), names)
    axes.set_xlabel("rank correlation\nwith the pruned masks")


def _shares(axes: Axes, masks: Sequence[HealedMask]) -> None:
    healings = sorted({state for one in masks for state in one.states if state.tokens})
    if not healings:
        style.empty(axes, "no mask was healed")
        return
    last = max(healings, key=lambda state: (sum(state in one.states for one in masks), state.tokens))
    for one in masks:
        if last in one.states:
            share = regained(one, last)
            x, y = lost(one, PRUNED), 100 * share.value
            style.dots(axes, x, y, (100 * share.low, 100 * share.high), KINDS[kind(one)], upright=True)
    axes.axhline(0, color="0.7", lw=0.8, zorder=0)
    if any(lost(one, PRUNED) > 0 for one in masks if last in one.states):
        axes.set_xscale("log")
        axes.set_xlim(*axes.get_xlim())
        style.plain_log(axes.xaxis)
    axes.set_xlabel("nats above the unpruned\nmodel before healing")
    axes.set_ylabel(f"% of the lost loss regained\nby {last.label}")


def _asked(study: AskedStudy) -> bool:
    """Whether some finished cell was repaired or healed."""
    read = (read_result(study.results / str(cell)) for cell in done(study.frame)["cell"])
    return any({"heal", "repair"} & {*(record or {})} for record in read)


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    metric = choose(study.frame, "ppl", given.perplexity)
    masks = healed(study.results, study.frame, metric)
    found = summary(masks)
    return Drawing(draw(masks, found, metric), table(masks), {"fig10_healing_summary": found})


FIGURE = StudyFigure(
    name="fig10_healing",
    heading="Do masks still differ after repair and healing?",
    build=_build,
    metrics=True,
    section="costs",
    asked=_asked,
    caption="Left: held-out loss of each mask above the dense model's, pruned and after each budget of healing; "
    "crosses are repaired. Middle: rank correlation with the pruned masks. Right: share of the lost loss that each "
    "mask regains.",
)

"""Cross the tasks of a study with their sets: score every item under every set, fit the router, record the numbers.

Scores are saved in files; a command that was stopped continues from these files.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pruning.calibration.items import TaskItems
from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.mask import Mask
from pruning.core.records import DoneResult, now, provenance
from pruning.core.storage import digest
from pruning.routing import fitted_router, set_scores
from pruning.routing.fitted_router import FittedRouter, StateEncoder, first_blocks, fit_head
from pruning.routing.set_scores import DENSE, POLICIES, Crossed, Interval, ItemScores
from pruning.routing.task_study import TaskStudy
from pruning.runs.cell import Cell, forward_of, model_of
from pruning.runs.measurements import batches_shown
from pruning.study.task_cells import TaskData, data_of
from pruning.study.text_tables import page, render

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)


def route_group(cells: Sequence[Cell], results: Sequence[DoneResult], settings: TaskStudy) -> dict[str, Any]:
    """The record of a group of finished cells. It is read from `routing.json` or, if missing, computed and saved."""
    cell, tasks = cells[0], data_of(cells, settings)
    sets = {task.name: Mask.from_json(result["mask"]) for task, result in zip(tasks, results, strict=True)}
    described = _described(cells, tasks, sets, settings)
    folder = _folder(cell, tasks, described["sets"])
    path = folder / fitted_router.RECORD
    earlier: dict[str, Any] = storage.read_json(path) if path.is_file() else {}
    if earlier.get("router", {}).get("target") == settings.target:
        return earlier | {"folder": str(folder)}
    started = now()
    model = model_of(cell)
    forward = forward_of(model)
    masks = list(sets.values())
    scores = {part: _scores(folder, tasks, masks, forward, part) for part in tasks[0].parts}
    names = list(sets)
    crossed = Crossed(scores["calibration"], scores["heldout"], {name: i for i, name in enumerate(names)})

    # The router is fitted to the calibration items. Its predictions are for the held-out items.
    blocks = first_blocks(masks)
    encoder = StateEncoder(forward, cell.model.tokenizer, blocks)
    prompts = {"calibration": [prompt for task in tasks for prompt in task.prompts["calibration"]]}
    prompts |= {task.name: list(task.prompts["heldout"]) for task in tasks}
    log.info("reading %d prompts for the router", sum(map(len, prompts.values())))
    states = {name: encoder.encode(some) for name, some in prompts.items()}
    targets = np.hstack([scores["calibration"][name].target(settings.target)[1:] for name in names])
    head = fit_head(states["calibration"], targets.T)
    template = cast(TaskItems, cell.calibration).template
    router = FittedRouter(sets, head, blocks, template, settings.target)
    predicted = {name: head.predict(states[name]).T for name in names}
    path.unlink(missing_ok=True)  # the record describes the old router, which is now replaced
    fitted_router.save_router(folder, router, fitted_router.model_record(model, cell.model))

    numbers = set_scores.summary(crossed, scores.get("reworded"), predicted, names, settings.target)
    record = {"study": cell.command.study, **described, **numbers}
    strengths = {"common": head.common.strength, "relative": head.relative.strength}
    record["router"] |= {"target": settings.target, "blocks": blocks, "strengths": strengths}
    record["environment"] = provenance(started, str(model.device))
    storage.write_json(path, record)
    return record | {"folder": str(folder)}


def _described(
    cells: Sequence[Cell], tasks: Sequence[TaskData], sets: Mapping[str, Mask], settings: TaskStudy
) -> dict[str, Any]:
    cell = cells[0]
    return {
        "model": cell.model.name,
        "objective": cell.option("objective"),
        "algo": cell.option("algo"),
        "unit": cell.unit,
        "k": cell.k,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "rewording": settings.rewording,
        "cells": {task.name: one.key for task, one in zip(tasks, cells, strict=True)},
        "sets": {name: mask.to_json() for name, mask in sets.items()},
        "items": {
            task.name: {
                part: {"items": samples.count, "sha256": samples.sha256}
                for part, samples in task.parts.items()
            }
            for task in tasks
        },
    }


def _folder(cell: Cell, tasks: Sequence[TaskData], sets: Mapping[str, Any]) -> Path:
    """The folder of a group's files; its name ends in a digest of the model, the sets and the items."""
    data = [samples.sha256 for task in tasks for samples in task.parts.values()]
    size = f"k{cell.k}" if cell.ratio is None else f"r{cell.ratio:g}"
    unit = "" if cell.unit == "block" else f"-{cell.unit}"
    stem = f"{cell.model.name}-{cell.option('objective')}-{cell.option('algo')}-{size}{unit}-s{cell.seed}"
    return (
        cell.command.results / fitted_router.FOLDER / f"{stem}-{digest([cell.model.identity(), sets, data])}"
    )


def _scores(
    folder: Path, tasks: Sequence[TaskData], masks: Sequence[Mask], forward: Forward, part: str
) -> dict[str, ItemScores]:
    found = {}
    for number, task in enumerate(tasks, start=1):
        path = folder / "scores" / f"{task.name}-{part}.npz"
        if not path.is_file():
            counts = (number, len(tasks), task.name, task.parts[part].count, part, len(masks))
            log.info("task %d of %d, %s: %d %s items under %d sets", *counts)
            with batches_shown(f"{task.name} {part}") as show:
                scored = set_scores.score_items(
                    forward.watched(show), task.parts[part], [masks[0].dense, *masks]
                )
            fields = [field.name for field in dataclasses.fields(scored)]
            fitted_router.save_arrays(path, {name: getattr(scored, name) for name in fields})
        try:
            found[task.name] = ItemScores(**fitted_router.read_arrays(path))
        except TypeError as error:
            raise DamagedError(
                f"{path} does not hold the scores of items: move it away and run again."
            ) from error
    return found


# What a study of tasks prints: the scores of all tasks under all sets, and the gain of each policy.


def routing_text(record: Mapping[str, Any]) -> str:
    """The report on one group of cells, from the group's record."""
    cross, policies, chosen = record["cross"], record["policies"], record["router"]["chosen"]
    drops = {name: " ".join(Mask.from_json(mask).names()) for name, mask in record["sets"].items()}

    # Rows are sets, and columns are tasks. Entries show the difference from the task's own set.
    crossed = [
        [name, text, *(_entry(cross[task][name], name == task) for task in cross)]
        for name, text in {DENSE: "", **drops}.items()
    ]
    rows = []
    for name, policy in policies.items():
        gain = "" if name == "static" else _interval(policy["gain"], "+")
        rows.append([name, POLICIES[name], _interval(policy["accuracy"]), gain, f"{policy['margin']:.3f}"])
    columns = ("policy", "chooses", "accuracy, mean over tasks", "gain over static", "margin")
    return page(
        "routing.txt.jinja",
        record=record,
        accuracy=render(("set", "drops", *cross), crossed),
        policies=render(columns, rows),
        chosen=render(("prompts of", *drops), [[task, *map(str, n.values())] for task, n in chosen.items()]),
        interval=_interval,
    )


def _entry(entry: Mapping[str, Any], own: bool) -> str:
    text = f"{entry['accuracy']:.3f}"
    if own:
        return f"{text} (own)"
    gap = entry["accuracy_to_own"]
    error = "" if gap["error"] is None else f" ± {gap['error']:.3f}"
    return f"{text} ({gap['value']:+.3f}{error})"


def _interval(found: Interval, sign: str = "") -> str:
    """An interval as text, such as `0.512 [0.498, 0.527]`."""
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"

"""The cells that belong together in a study of tasks, and what is recorded about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.hashing import digest
from pruning.core.mask import Mask
from pruning.core.result import DoneResult
from pruning.routing import files
from pruning.routing.task_data import TaskData
from pruning.runs.cell import Cell
from pruning.study.task_cells import TaskSettings


@dataclass(frozen=True)
class Group:
    """The cells of one model and search, one per task, with their results and the items of their tasks."""

    cells: Sequence[Cell]
    results: Sequence[DoneResult]
    tasks: Sequence[TaskData]
    settings: TaskSettings

    @property
    def sets(self) -> dict[str, Mask]:
        """The set of each task."""
        pairs = zip(self.tasks, self.results, strict=True)
        return {task.name: Mask.from_json(result["mask"]) for task, result in pairs}

    @property
    def folder(self) -> Path:
        """The folder of the group's files; its name has a digest of the weights, the sets and the items."""
        cell = self.cells[0]
        data = [samples.sha256 for task in self.tasks for samples in task.parts().values()]
        masks = {name: mask.to_json() for name, mask in self.sets.items()}
        size = f"k{cell.k}" if cell.ratio is None else f"r{cell.ratio:g}"
        unit = "" if cell.unit == "block" else f"-{cell.unit}"
        stem = f"{cell.model.name}-{cell.choices.objective}-{cell.choices.algo}-{size}{unit}-s{cell.seed}"
        return cell.results / files.FOLDER / f"{stem}-{digest([cell.weights(), masks, data])}"


def described(group: Group) -> dict[str, Any]:
    """What was searched, and the items of each task."""
    cell = group.cells[0]
    return {
        "model": cell.model.name,
        "objective": cell.choices.objective,
        "algo": cell.choices.algo,
        "unit": cell.unit,
        "k": cell.k,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "rewording": group.settings.tasks.rewording,
        "cells": {task.name: one.key for task, one in zip(group.tasks, group.cells, strict=True)},
        "sets": {name: mask.to_json() for name, mask in group.sets.items()},
        "items": {
            task.name: {
                part: {"items": samples.count, "sha256": samples.sha256}
                for part, samples in task.parts().items()
            }
            for task in group.tasks
        },
    }

"""The cells of a study of tasks (`tasks.folder=DIR`): in a group, each task is scored under all sets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pruning.calibration.items import EMBEDDED, TaskItems
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import NoCompensation
from pruning.launcher import InProcess
from pruning.routing.fitted_router import prompts
from pruning.routing.task_study import TaskStudy
from pruning.runs.cell import Cell
from pruning.runs.prepare import Reader, check_samples

# A composed configuration, and the options chosen in Hydra's groups, by group.
Composed: TypeAlias = tuple[Any, Mapping[str, Any]]


def task_settings(configs: Sequence[Composed]) -> TaskStudy | None:
    """The settings of a study of tasks, which all cells share; None if the command runs no such study."""
    plain: list[Any] = [OmegaConf.to_container(config, resolve=True) for config, _ in configs]
    found = [TaskStudy(**one.get("tasks", {})) for one in plain]
    if not any(one.asked for one in found):
        return None
    if any(one != found[0] for one in found):
        raise InputError("tasks differs between cells: run a separate command for each value.")
    found[0].check()
    return found[0]


def expanded(configs: Sequence[Composed], settings: TaskStudy) -> list[Composed]:
    """A copy of each configuration for each task. Raises InputError if there are too few tasks."""
    sources: list[dict[str, Any]] = [{"source": "file", "path": str(path)} for path in settings.files()]
    if settings.embedded:
        sources.append({"source": EMBEDDED, "path": None})
    for config, _ in configs:
        if not str(config.calibration.get("_target_", "")).endswith(f".{TaskItems.__name__}"):
            raise InputError(
                "a study of tasks needs calibration=task_items: leave calibration out, or give it so."
            )
    found: list[Composed] = []
    for (config, choices), source in product(configs, sources):
        copied: DictConfig = copy.deepcopy(config)
        with read_write(copied), open_dict(copied):
            copied.calibration.update(source)
        found.append((copied, choices))
    return found


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in groups; the cells of a group differ only in their task."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        identity = cell.identity()
        shared = {name: v for name, v in identity["calibration"].items() if name not in ("source", "path")}
        key = digest([cell.model.name, identity | {"calibration": shared}])
        found.setdefault(key, []).append(cell)
    return list(found.values())


def check(cells: Sequence[Cell], launcher: Any, settings: TaskStudy) -> None:
    """Raise InputError if tasks cannot be scored under all sets, or share items. Computes no losses."""
    if not isinstance(launcher, InProcess) or collectives.world_size() > 1:
        raise InputError(
            "a study of tasks needs launcher=local and one process: it ends by scoring all tasks under all sets here."
        )
    for cell in cells:
        if cell.compensation != NoCompensation() or cell.heal.trains:
            raise InputError("a study of tasks measures sets as they are: use compensation=none heal=none.")
    for group in groups(cells):
        tasks, model = data_of(group, settings), group[0].model
        _check_apart(tasks)
        reader = Reader.of(model.name, model.config, model.tokenizer)
        for task in tasks:
            for part, samples in task.parts.items():
                check_samples(f"the {part} items of {task.name}", samples, reader, "calibration.length")


# The items of each task: calibration items, for the search and the router, and held-out items.


@dataclass(frozen=True)
class TaskData:
    """The items of one task: `parts` has token rows, `prompts` has prompts, both under `calibration` and `heldout`.

    If the study has a second wording, `parts` also has the held-out items in this wording, as `reworded`.
    """

    name: str
    parts: dict[str, Samples]
    prompts: dict[str, tuple[str, ...]]


def data_of(group: Sequence[Cell], settings: TaskStudy) -> list[TaskData]:
    """The items of each task in a group, in the order of the group's cells."""
    tokenizer, rewording = group[0].model.tokenizer, settings.rewording
    found = []
    for cell in group:
        items = cell.calibration
        assert isinstance(items, TaskItems)  # `expanded` has checked this
        drawn = dict(zip(("calibration", "heldout"), items.parts(), strict=True))
        parts = {name: items.rows(some, tokenizer) for name, some in drawn.items()}
        if rewording is not None:
            parts["reworded"] = items.rows(drawn["heldout"], tokenizer, rewording)
        asked = {name: prompts(items.template, some) for name, some in drawn.items()}
        found.append(TaskData(items.task, parts, asked))
    return found


def _check_apart(tasks: Sequence[TaskData]) -> None:
    """Raise InputError if two tasks have the same items, or one task's held-out items calibrate another task."""
    for one, other in combinations(tasks, 2):
        if all(one.parts[name].keys == other.parts[name].keys for name in one.prompts):
            raise InputError(
                f"the tasks {one.name} and {other.name} have the same items: remove one of their files."
            )
    for one, other in permutations(tasks, 2):
        if shared := len(one.parts["calibration"].keys & other.parts["heldout"].keys):
            raise InputError(
                f"{shared} calibration items of the task {one.name} are held-out items of the task {other.name}: "
                "give files that share no items."
            )

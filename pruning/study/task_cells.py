"""The cells of a study of tasks (`tasks.folder=DIR`): one for each task, and which of them belong together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pruning.calibration.items import EMBEDDED, TaskItems
from pruning.core.errors import InputError
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import NoCompensation
from pruning.launcher.local import InProcess
from pruning.routing.encoders import check_encoder
from pruning.routing.router_settings import RouterSettings, TaskStudy
from pruning.routing.set_scores import TaskData, check_apart, task_data
from pruning.runs.cell import Cell
from pruning.runs.check_data import Reader, check_samples
from pruning.study.grid import Composed

PATHLESS = ("source", "path")  # what differs between the tasks of a group


@dataclass(frozen=True)
class TaskSettings:
    """What a command asks for besides its cells."""

    tasks: TaskStudy
    router: RouterSettings


def task_settings(configs: Sequence[Composed]) -> TaskSettings | None:
    """The settings of a study of tasks; None if the command does not ask for one.

    Raises InputError if a value is wrong, or if cells ask for different settings.
    """
    found = [_settings(config) for config, _ in configs]
    asked = [one for one in found if one.tasks.asked]
    if not asked:
        return None
    if any(one != found[0] for one in found):
        raise InputError("tasks or router differs between cells: run a separate command for each value.")
    found[0].tasks.check()
    found[0].router.check()
    return found[0]


def expanded(configs: Sequence[Composed], settings: TaskSettings) -> list[Composed]:
    """A configuration for each task of each configuration. Raises InputError if there are too few tasks."""
    sources: list[dict[str, Any]] = [{"source": "file", "path": str(path)} for path in settings.tasks.files()]
    if settings.tasks.embedded:
        sources.append({"source": EMBEDDED, "path": None})
    return [(_with(config, source), choices) for config, choices in configs for source in sources]


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells that differ only in their task, together."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_group(cell), []).append(cell)
    return list(found.values())


def check(cells: Sequence[Cell], launcher: Any, settings: TaskSettings) -> None:
    """Raise InputError if the cells cannot be crossed, or if tasks share items; nothing is computed.

    Raises UnreachableError if the encoder of the router cannot be loaded.
    """
    if not isinstance(launcher, InProcess) or collectives.world_size() > 1:
        raise InputError(
            "a study of tasks needs launcher=local and one process: it ends by scoring all tasks under all sets here."
        )
    for cell in cells:
        if cell.compensation != NoCompensation() or cell.heal.trains:
            raise InputError("a study of tasks measures sets as they are: use compensation=none heal=none.")
    for group in groups(cells):
        tasks = data_of(group, settings)
        check_apart(tasks)
        model = group[0].model
        check_encoder(settings.router, model.n_blocks)
        reader = Reader.of(model.name, model.config, model.tokenizer)
        for task in tasks:
            for part, samples in task.parts().items():
                check_samples(f"the {part} items of {task.name}", samples, reader, "calibration.length")


def data_of(group: Sequence[Cell], settings: TaskSettings) -> list[TaskData]:
    """The items of the tasks of a group of cells, in the order of the cells."""
    tokenizer = group[0].model.tokenizer
    return [task_data(_items(cell), tokenizer, settings.tasks.rewording) for cell in group]


def _items(cell: Cell) -> TaskItems:
    if not isinstance(cell.calibration, TaskItems):
        raise InputError(
            f"a study of tasks needs calibration=task_items, not {cell.choices.calibration}: some items of each task "
            "must be held out."
        )
    return cell.calibration


def _group(cell: Cell) -> str:
    identity = cell.identity()
    shared = {name: value for name, value in identity["calibration"].items() if name not in PATHLESS}
    return digest([cell.model.name, identity | {"calibration": shared}])


def _settings(config: DictConfig) -> TaskSettings:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return TaskSettings(TaskStudy(**plain.get("tasks", {})), RouterSettings(**plain.get("router", {})))


def _with(config: DictConfig, source: dict[str, Any]) -> DictConfig:
    """A copy of a configuration whose calibration reads this task."""
    if not str(config.calibration.get("_target_", "")).endswith(f".{TaskItems.__name__}"):
        raise InputError(
            "a study of tasks needs calibration=task_items: leave calibration out, or give it so."
        )
    copied = copy.deepcopy(config)
    with read_write(copied), open_dict(copied):
        for name, value in source.items():
            copied.calibration[name] = value
    return copied

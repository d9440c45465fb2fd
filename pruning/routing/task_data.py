"""The items of each task of a study: those for the search and for the router, and those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

from pruning.calibration.records import FIELD, Item
from pruning.calibration.samples import Samples
from pruning.calibration.task_items import TaskItems
from pruning.core.errors import InputError


@dataclass(frozen=True)
class TaskData:
    """One task: its items as token rows, and their prompts. `reworded` are the held-out items in a second wording."""

    name: str
    calibration: Samples
    heldout: Samples
    reworded: Samples | None
    calibration_prompts: tuple[str, ...]
    heldout_prompts: tuple[str, ...]

    def parts(self) -> dict[str, Samples]:
        """The samples by the name of their part."""
        parts = {"calibration": self.calibration, "heldout": self.heldout}
        return parts if self.reworded is None else {**parts, "reworded": self.reworded}


def task_data(items: TaskItems, tokenizer: Any, rewording: str | None) -> TaskData:
    """Draw the items of a task. Raises InputError as `TaskItems.draw` does."""
    drawn, heldout = items.parts(tokenizer)
    return TaskData(
        items.task,
        items.rows(drawn, tokenizer),
        items.rows(heldout, tokenizer),
        None if rewording is None else items.rows(heldout, tokenizer, rewording),
        prompts(items.template, drawn),
        prompts(items.template, heldout),
    )


def prompts(template: str, items: Sequence[Item]) -> tuple[str, ...]:
    """The prompts of items: the template with each question."""
    return tuple(template.replace(FIELD, item.question) for item in items)


def check_apart(tasks: Sequence[TaskData]) -> None:
    """Raise InputError if two tasks have the same items, or if one is chosen on items that another one holds out."""
    for one, other in combinations(tasks, 2):
        if (one.calibration.keys, one.heldout.keys) == (other.calibration.keys, other.heldout.keys):
            raise InputError(
                f"the tasks {one.name} and {other.name} have the same items: remove one of their files."
            )
    for one, other in permutations(tasks, 2):
        if shared := len(one.calibration.keys & other.heldout.keys):
            raise InputError(
                f"{shared} calibration items of the task {one.name} are held-out items of the task {other.name}: "
                "give files that share no items."
            )

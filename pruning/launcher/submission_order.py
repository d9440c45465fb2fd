"""The order in which cells are submitted, so that they can share losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from pruning.core.errors import unknown
from pruning.launcher.submissions import QueuedCell

ORDERS = ("sharing", "asked")


def ordered(tasks: Sequence[QueuedCell], order: str) -> list[QueuedCell]:
    """Tasks in the given order (`asked`), or rearranged to share losses (`sharing`).

    Raises InputError if `order` is unknown.

    Cells of one model, objective and set of samples form a group, and share losses. If two cells of a group start
    together, both compute the same losses. So the shortest search of each group comes first, because the longer
    searches begin with the same losses; then comes the second shortest of each group, and so on.
    """
    if order not in ORDERS:
        raise unknown("launcher.order", order, ORDERS)
    if order == "asked":
        return list(tasks)
    groups: dict[str, list[QueuedCell]] = {}
    for task in sorted(tasks, key=lambda task: task.evaluations):
        groups.setdefault(task.group, []).append(task)
    rounds: Iterable[tuple[QueuedCell | None, ...]] = zip_longest(*groups.values())
    return [task for task in chain.from_iterable(rounds) if task is not None]

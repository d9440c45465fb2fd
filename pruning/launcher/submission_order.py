"""In which order cells are submitted, so that they find each other's losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from pruning.core.errors import unknown
from pruning.launcher.submissions import QueuedCell

ORDERS = ("sharing", "asked")


def ordered(tasks: Sequence[QueuedCell], order: str) -> list[QueuedCell]:
    """Tasks in the order `asked`, or for `sharing` dealt out.

    Cells of one model, objective and samples share losses, but two of them that start together compute the same ones.
    So the first of each group come first, the shortest searches, whose losses the longer ones begin with; then the
    second of each group, and so on.
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

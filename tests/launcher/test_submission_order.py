"""The order of submission lets cells share their losses."""

from __future__ import annotations

import pytest

from pruning.core.errors import InputError
from pruning.launcher.submission import ordered
from tests.helpers.launchers import task

TASKS = [
    task("a-long", "a", 90),
    task("a-short", "a", 10),
    task("b-long", "b", 80),
    task("a-middle", "a", 50),
    task("b-short", "b", 20),
]


def test_the_shortest_of_each_group_come_first_then_the_second_of_each() -> None:
    keys = [cell.key for cell in ordered(TASKS, "sharing")]
    assert keys == ["a-short", "b-short", "a-middle", "b-long", "a-long"]


def test_equally_long_cells_stay_in_the_order_in_which_they_were_asked_for() -> None:
    same = [task(name, "a", 10) for name in ("z", "m", "a")]
    assert [cell.key for cell in ordered(same, "sharing")] == ["z", "m", "a"]


def test_asked_changes_nothing() -> None:
    assert ordered(TASKS, "asked") == TASKS


def test_another_order_is_refused() -> None:
    with pytest.raises(InputError, match="Did you mean sharing"):
        ordered(TASKS, "shared")

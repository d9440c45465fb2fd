"""What a search keeps between its requests is freed at its end, so that many cells can run in one process."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import Beginnings
from pruning.runs import run_cell
from tests.conftest import Command


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of all states that were kept before they were freed."""
    sizes, clear = list[int](), Beginnings.clear

    def cleared(self: Beginnings, *given: Any, **named: Any) -> None:
        sizes.append(self.nbytes())
        clear(self, *given, **named)

    monkeypatch.setattr(Beginnings, "clear", cleared)
    return sizes


def test_a_cell_keeps_no_states(launch: Command, most: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, make = list[Forward](), run_cell.forward_with

    def made(*given: Any) -> Forward:
        forwards.append(make(*given))
        return forwards[-1]

    monkeypatch.setattr(run_cell, "forward_with", made)
    launch("algo=greedy", "ratio=0.5")
    assert max(most) > 0, "nothing was kept during the search"
    assert [forward.beginnings.nbytes() for forward in forwards] == [0]

"""What a search keeps between its requests is freed at its end, so that many cells can run in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pruning
from pruning.api import search
from pruning.calibration.sources import pydoc
from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import Beginnings
from pruning.runs import run_cell
from tests.conftest import Command


def noted(module: Any, name: str, forwards: list[Forward], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module's function that makes forward passes also note them."""
    make = getattr(module, name)

    def made(*given: Any) -> Forward:
        forwards.append(make(*given))
        return forwards[-1]

    monkeypatch.setattr(module, name, made)


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
    forwards: list[Forward] = []
    noted(run_cell, "forward_with", forwards, monkeypatch)
    launch("algo=greedy", "ratio=0.5")
    assert max(most) > 0, "nothing was kept during the search"
    assert [forward.beginnings.nbytes() for forward in forwards] == [0]


def test_a_search_from_python_keeps_no_states(
    model_folder: Path, most: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[Forward] = []
    noted(search, "forward_with", forwards, monkeypatch)
    model = pruning.load_model(model_folder, dtype="float32")
    texts = list(pydoc("calibration"))[:40]
    pruning.search_mask(model, texts, ratio=0.5, samples=3, length=32, progress=False)
    assert max(most) > 0, "nothing was kept during the search"
    assert [forward.beginnings.nbytes() for forward in forwards] == [0]

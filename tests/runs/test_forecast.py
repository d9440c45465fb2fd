"""The forecast of a cell: what is done is left out, and what is not done is counted."""

from __future__ import annotations

import re

import pytest

from pruning.study import command, guide
from tests.conftest import Command, Ended
from tests.healing.test_launch import SEARCH, SHORT
from tests.study.test_compress import QUICK


def parts(ended: Ended) -> set[str]:
    """The parts of the work that a forecast names."""
    assert ended.status == 0, ended.err
    told = re.search(r"takes +about .+ on .+: (.+)\n", ended.out)
    assert told, ended.out
    return {part.rsplit(" ", 2)[0] for part in told[1].split(", ")}


def test_the_training_counts_unless_it_is_the_one_that_is_done(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide, "SPEED", QUICK)
    heal = (*SEARCH, "heal=full", *SHORT)
    assert launch(*heal).status == 0
    done = launch(*heal, "guide=true")
    assert parts(done) == {"speed", "export"}
    longer = launch(*heal, "heal.tokens=4096", "guide=true")
    assert parts(longer) == {"healing", "evaluation", "export"}


@pytest.mark.parametrize(
    ("words", "copied"),
    [(("model.dtype=bfloat16",), True), (("model.dtype=bfloat16", "near_ties.most=0"), False), ((), False)],
)
def test_memory_names_the_float32_copy_of_near_ties(
    launch: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], copied: bool
) -> None:
    monkeypatch.setattr(command, "run_cells", lambda *_: None)
    ended = launch(*SEARCH, *words, "guide=true")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("memory ")]
    assert ("float32 copy" in line) == copied

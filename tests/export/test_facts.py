"""The commands of a card: each evaluation is repeated, and the healing is done on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.config.app import launch_words
from pruning.core.storage import read_json
from pruning.export.model_card import launched
from tests.conftest import Command
from tests.healing.test_launch import SEARCH, SHORT, passage

HEAL = {"class": "Full"}
FIRST, SECOND, SPEED = {"class": "Heldout"}, {"class": "LocalFiles"}, {"class": "Speed"}
QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")


def result(latest: Any, healed: tuple[str, ...], **heal: Any) -> Any:
    """A healed result with three evaluations, of which `healed` measured the healed model."""
    metrics = {"a": FIRST, "b": SECOND, "speed": SPEED}
    return {
        "config": {"seed": 0, "heal": HEAL, "eval": latest},
        "heal": heal,
        "evaluation": {
            "settings": metrics,
            "records": {name: {"healed": "path"} if name in healed else {} for name in metrics},
        },
    }


def evaluations(*arguments: Any, healed: bool = True, **known: Any) -> list[tuple[Any, bool]]:
    """Each launch: its evaluation, and whether it heals."""
    return [(one["eval"], "heal" in one) for one in launched(result(*arguments, **known), healed)]


def test_the_first_launch_that_heals_has_the_evaluation_that_the_text_depends_on() -> None:
    assert evaluations(SECOND, ("b",), evaluation=SECOND) == [(FIRST, False), (SPEED, False), (SECOND, True)]
    assert evaluations(SPEED, ("b",), evaluation=SECOND) == [(FIRST, False), (SECOND, True), (SPEED, True)]
    assert evaluations(FIRST, ("a", "b"), evaluation=SECOND) == [
        (SPEED, False),
        (SECOND, True),
        (FIRST, True),
    ]
    again = [(SPEED, False), (SECOND, True), (FIRST, True), (SECOND, True)]
    assert evaluations(SECOND, ("a", "b"), evaluation=SECOND) == again


def test_without_left_out_windows_the_text_is_the_same_for_every_evaluation() -> None:
    own_text = evaluations(SECOND, ("a", "b"))
    assert own_text == [(SPEED, False), (FIRST, True), (SECOND, True)]


def test_the_pruned_model_of_a_healed_cell_needs_no_healing() -> None:
    plain = evaluations(SECOND, ("a", "b"), healed=False, evaluation=SECOND)
    assert plain == [(FIRST, False), (SPEED, False), (SECOND, False)]


def test_the_launches_of_a_card_heal_on_the_same_text(launch: Command, tmp_path: Path) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    for evaluation in (passage(tmp_path, 2), QUICK, ("eval.samples=2", "eval.length=32")):
        ended = launch(*heal, *evaluation)
        assert ended.status == 0, ended.err
    made = ended.result()
    for config in launched(made, healed=True):
        ended = launch(*launch_words(config), f"paths.results={tmp_path / 'again'}", calibrated=False)
        assert ended.status == 0, ended.err
    (again,) = (tmp_path / "again").glob("*/result.json")
    repeated = read_json(again)
    assert repeated["heal"]["weights_sha256"] == made["heal"]["weights_sha256"]
    assert repeated["evaluation"]["healed"] == made["evaluation"]["healed"]

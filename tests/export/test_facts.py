"""The command of a card: the healing is done on the same text."""

from __future__ import annotations

from pathlib import Path

from pruning.config.app import launch_words
from pruning.core.storage import read_json
from pruning.export.model_card import launched
from tests.conftest import Command
from tests.healing.test_launch import SEARCH, SHORT, passage

QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")


def test_the_launch_of_a_card_heals_on_the_same_text(launch: Command, tmp_path: Path) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    for evaluation in (passage(tmp_path, 2), QUICK):
        ended = launch(*heal, *evaluation)
        assert ended.status == 0, ended.err
    made = ended.result()
    words = launch_words(launched(made, healed=True))
    again = launch(*words, f"paths.results={tmp_path / 'again'}", calibrated=False)
    assert again.status == 0, again.err
    (path,) = (tmp_path / "again").glob("*/result.json")
    assert read_json(path)["heal"]["weights_sha256"] == made["heal"]["weights_sha256"]
    assert "heal" not in launched(made, healed=False)

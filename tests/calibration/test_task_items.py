"""Items of a task: those for the search and the held-out ones are apart, whatever the seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.items import TaskItems
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from tests.helpers.evaluations import shared_data
from tests.helpers.task_files import items_of, task_folder


def settings(folder: Path, **changed: Any) -> TaskItems:
    path = str(task_folder(folder) / "animals.jsonl")
    return TaskItems(**({"source": "file", "samples": 8, "seed": 0, "path": path, "heldout": 12} | changed))


def held_out(items: TaskItems, tokenizer: Any, template: str | None = None) -> Samples:
    return items.rows(items.parts(tokenizer)[1], tokenizer, template)


def test_calibration_and_held_out_items_are_apart_for_every_seed(tmp_path: Path, tokenizer: Any) -> None:
    held, draws = set(), set()
    for seed in range(5):
        items = settings(tmp_path, seed=seed)
        drawn, heldout = items.draw(tokenizer), held_out(items, tokenizer)
        assert (drawn.count, heldout.count) == (8, 12)
        assert not drawn.keys & heldout.keys
        held.add(heldout.sha256)
        draws.add(drawn.sha256)
    assert len(held) == 1, "the seed changes what is searched on, not what is measured"
    assert len(draws) == 5
    assert held_out(settings(tmp_path, split=1), tokenizer).sha256 not in held


def test_a_second_wording_asks_the_same_items(tmp_path: Path, tokenizer: Any) -> None:
    items = settings(tmp_path)
    first, second = held_out(items, tokenizer), held_out(items, tokenizer, "Q: {question}\nA:")
    assert first.keys == second.keys
    assert [(row.item, row.choice, row.right) for row in first.rows] == [
        (row.item, row.choice, row.right) for row in second.rows
    ]
    assert first.sha256 != second.sha256


def test_equal_items_long_items_and_items_with_equal_choices_are_left_out(
    tmp_path: Path, tokenizer: Any
) -> None:
    good = items_of("animals", 4)
    long = {"question": "Why? " * 60, "choices": ["a", "b"], "answer": 0}
    same = {"question": "Which one?", "choices": ["a", "a"], "answer": 0}
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in [*good, good[0], long, same]))
    items = TaskItems("file", 2, 0, str(path), heldout=2, length=60)
    drawn, heldout = items.parts(tokenizer)
    assert {item.question for item in [*drawn, *heldout]} == {item["question"] for item in good}
    assert items.task == "mixed"


def test_the_items_of_this_program_keep_their_parts(tokenizer: Any) -> None:
    from pruning.calibration.sources import embedded_items

    items = TaskItems("commonsense", 64, 0, heldout=200)
    assert items.task == "commonsense"
    assert items.draw(tokenizer).keys <= {item.key for item in embedded_items("calibration")}
    assert held_out(items, tokenizer).keys <= {item.key for item in embedded_items("heldout")}


def test_arc_has_items_with_equal_choices_and_is_read(tokenizer: Any) -> None:
    items = TaskItems("file", 8, 0, str(shared_data("arc_easy.jsonl")), heldout=20)
    assert not items.draw(tokenizer).keys & held_out(items, tokenizer).keys


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"samples": 13}, "has 24 distinct items, and 13 for the search and 12 held out"),
        ({"heldout": 0}, "calibration.heldout=0 is too small"),
        ({"source": "web"}, "unknown source of items 'web'"),
        ({"template": "no field"}, "does not contain {question}"),
        ({"length": 5}, "of at most 5 tokens"),
        ({"path": None}, "calibration.path is not set"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, tokenizer: Any, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as found:
        settings(tmp_path, **changed).draw(tokenizer)
    assert says in str(found.value)


def test_items_without_a_question_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "contexts.jsonl"
    item = {
        "context_options": ["He ran because", "He slept because"],
        "continuation": "he was tired.",
        "gold": 1,
    }
    path.write_text(json.dumps(item) + "\n")
    with pytest.raises(InputError, match="no question"):
        TaskItems("file", 1, 0, str(path), heldout=1).draw(tokenizer)

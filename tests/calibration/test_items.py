"""Items as rows: drawn from a file or a benchmark (`Items`), and the two parts of a task (`TaskItems`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pytest

from pruning.calibration import file_of
from pruning.calibration.item_files import Item
from pruning.calibration.items import Items, TaskItems, encode_pair
from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import embedded_items
from pruning.core.errors import InputError
from tests.helpers.task_files import items_of, task_folder
from tests.helpers.tokens import Numbers, with_bos, written


@pytest.fixture(scope="module")
def beginning(tokenizer: Any) -> Any:
    return with_bos(tokenizer)


def items_file(folder: Path, *items: tuple[str, list[str], int]) -> str:
    lines = [{"question": q, "choices": c, "answer": a} for q, c, a in items]
    return str(written(folder, "items.jsonl", *lines))


@pytest.mark.parametrize("prompt", ["Question: Which floats?\nAnswer:", "a", "x \n"])
@pytest.mark.parametrize("answer", [" A cork", " 12", " größer als"])
@pytest.mark.parametrize("bos", [False, True])
def test_a_pair_is_tokenised_whole_and_its_span_is_the_answer(
    tokenizer: Any, beginning: Any, prompt: str, answer: str, bos: bool
) -> None:
    chosen = beginning if bos else tokenizer
    ids, (start, stop) = encode_pair(chosen, prompt, answer)
    assert list(ids) == chosen(prompt + answer).input_ids
    assert stop == len(ids)
    assert tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False) == answer
    assert tokenizer.decode(ids[bos:start], clean_up_tokenization_spaces=False) == prompt


def test_an_answer_that_merges_with_the_prompt_cannot_be_scored() -> None:
    assert encode_pair(Numbers(), "1 2", "+3 4") == ((1, 5, 4), (2, 3))
    with pytest.raises(InputError, match=r"'\+3' .*'1 2'"):
        encode_pair(Numbers(), "1 2", "+3")


def test_each_choice_becomes_a_row_and_the_right_one_is_marked(tokenizer: Any, tmp_path: Path) -> None:
    path = items_file(tmp_path, ("1 2", ["3", "4 5"], 1), ("6", ["7", "8", "9"], 0))
    samples = Items("file", 2, 0, path=path, template="0 {question}").draw(Numbers())
    assert samples.rows == (
        Row((0, 1, 2, 3), (3, 4), 0, 0, False),
        Row((0, 1, 2, 4, 5), (3, 5), 0, 1, True),
        Row((0, 6, 7), (2, 3), 1, 0, True),
        Row((0, 6, 8), (2, 3), 1, 1, False),
        Row((0, 6, 9), (2, 3), 1, 2, False),
    )
    assert (samples.kind, samples.source, samples.count, len(samples.keys)) == ("items", path, 2, 2)
    path = items_file(tmp_path, ("Which floats?", ["A cork", "A coin"], 0))
    rows = Items("file", 1, 0, path=path).draw(tokenizer).rows
    texts = [tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) for row in rows]
    assert texts == [f"Question: Which floats?\nAnswer: {choice}" for choice in ("A cork", "A coin")]


# Commonsense 170k.

BOOLQ = {
    "instruction": "Please answer with true or false, question: do fish swim?\n\nAnswer format: true/false",
    "output": "the correct answer is true",
    "answer": "true",
}
PIQA = {
    "instruction": "Choose: dry hands\n\nSolution1: towel\n\nAnswer format: solution1/solution2/solution3",
    "answer": "solution3",
}


def test_labels_are_the_choices_of_commonsense170k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [
        Item(BOOLQ["instruction"], ("true", "false"), 0),
        Item(PIQA["instruction"], ("solution1", "solution2", "solution3"), 2),
    ]
    local = Items("commonsense170k", 1, 0, path=str(written(tmp_path, "c.json", [BOOLQ, PIQA])))
    load = Mock(return_value=[BOOLQ, PIQA])
    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = Items("commonsense170k", 2, 0, path="zwhe99/commonsense_170k", revision="abc")
    assert local.pool() == hub.pool() == expected
    assert (file_of(local), file_of(hub)) == (local.path, None)
    assert (load.call_args.args[0], load.call_args.kwargs["revision"]) == (hub.path, "abc")


# Items of a task: those for the search and the held-out ones are apart, whatever the seed.


def settings(folder: Path, **changed: Any) -> TaskItems:
    path = str(task_folder(folder) / "animals.jsonl")
    return TaskItems(**({"source": "file", "samples": 8, "seed": 0, "path": path, "heldout": 12} | changed))


def held_out(items: TaskItems, tokenizer: Any, template: str | None = None) -> Samples:
    return items.rows(items.parts()[1], tokenizer, template)


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
    numbered = [[(row.item, row.choice, row.right) for row in one.rows] for one in (first, second)]
    assert numbered[0] == numbered[1]
    assert first.sha256 != second.sha256


def test_equal_items_and_items_with_equal_choices_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    good = items_of("animals", 4)
    same = {"question": "Which one?", "choices": ["a", "a"], "answer": 0}
    path = written(tmp_path, "mixed.jsonl", *good, good[0], same)
    items = TaskItems("file", 2, 0, str(path), heldout=2)
    drawn, heldout = items.parts()
    assert {item.question for item in [*drawn, *heldout]} == {item["question"] for item in good}
    assert items.task == "mixed"


def test_the_items_of_this_program_keep_their_parts(tokenizer: Any) -> None:
    items = TaskItems("commonsense", 64, 0, heldout=200)
    assert items.task == "commonsense"
    assert items.draw(tokenizer).keys <= {item.key for item in embedded_items("calibration")}
    assert held_out(items, tokenizer).keys <= {item.key for item in embedded_items("heldout")}

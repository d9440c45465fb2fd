from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import datasets
import pytest

from pruning.calibration.items import Items
from pruning.calibration.sources import Item, items
from pruning.core.errors import InputError
from tests.helpers.tokens import written

BOOLQ = {
    "instruction": "Please answer the following question with true or false, question: do fish swim?\n\n"
    "Answer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}
PIQA = {
    "instruction": "Please choose the correct solution to the question: dry hands\n\nSolution1: towel\n\n"
    "Solution2: rain\n\nSolution3: oil\n\nAnswer format: solution1/solution2/solution3",
    "input": "",
    "output": "the correct answer is solution3",
    "answer": "solution3",
}


def read_items(path: Path) -> list[Item]:
    return items(Items("commonsense170k", 1, 0, path=str(path)))


def test_labels_are_the_choices_of_commonsense170k(tmp_path: Path) -> None:
    first, second = read_items(written(tmp_path, "c.json", [BOOLQ, PIQA]))
    assert first == Item(str(BOOLQ["instruction"]), ("true", "false"), 0)
    assert (second.choices, second.answer) == (("solution1", "solution2", "solution3"), 2)
    assert Items("commonsense170k", 1, 0, path=str(tmp_path / "c.json")).file() == str(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "maybe"}, "item 2: the answer 'maybe' is not one of the labels true, false"),
        ({"answer": ""}, "item 2: the answer '' is not one of the labels"),
        ({"instruction": "do fish swim?"}, "item 2: the instruction does not end in 'Answer format"),
        ({"instruction": "Answer format: true/false, please"}, "item 2: the instruction does not end in"),
    ],
)
def test_a_malformed_item_of_commonsense170k_is_named(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = written(tmp_path, "c.json", [BOOLQ, BOOLQ | change])
    with pytest.raises(InputError, match=message) as caught:
        read_items(path)
    assert str(path) in str(caught.value)


def test_the_line_of_a_local_copy_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.json, line 2: this is not JSON"):
        read_items(written(tmp_path, "c.json", "[", "{'a'}]"))


def test_commonsense170k_comes_from_the_hub_if_path_is_not_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Mock(return_value=[BOOLQ, PIQA])
    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = Items("commonsense170k", 2, 0, path="zwhe99/commonsense_170k", revision="abc")
    assert [item.answer for item in items(settings)] == [0, 2]
    load.assert_called_once_with("zwhe99/commonsense_170k", split="train", revision="abc")
    assert settings.file() is None

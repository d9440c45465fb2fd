from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.items import Items, encode_pair
from pruning.calibration.samples import Row
from pruning.core.errors import InputError
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
    with pytest.raises(InputError, match=r"'\+3' has no tokens of its own after the prompt '1 2'"):
        encode_pair(Numbers(), "1 2", "+3")


def test_each_choice_becomes_a_row_and_the_right_one_is_marked(tmp_path: Path) -> None:
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


def test_a_seed_decides_the_items_and_none_is_drawn_twice(tokenizer: Any) -> None:
    draws = [Items("commonsense", 20, seed).draw(tokenizer) for seed in (0, 0, 1)]
    assert draws[0].rows == draws[1].rows
    assert draws[0].sha256 != draws[2].sha256
    assert draws[0].count == len(draws[0].keys) == 20
    for item in range(20):
        assert sum(bool(row.right) for row in draws[0].rows if row.item == item) == 1


def test_the_default_prompt_is_that_of_the_harness(tokenizer: Any, tmp_path: Path) -> None:
    path = items_file(tmp_path, ("Which {floats}?", ["A cork", "A coin"], 0))
    rows = Items("file", 1, 0, path=path).draw(tokenizer).rows
    texts = [tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) for row in rows]
    assert texts == [f"Question: Which {{floats}}?\nAnswer: {choice}" for choice in ("A cork", "A coin")]


def test_too_few_items_say_how_many_there_are(tmp_path: Path) -> None:
    path = items_file(tmp_path, ("1", ["2", "3"], 0))
    with pytest.raises(InputError, match=r"has 1 items, fewer than calibration\.samples=2") as caught:
        Items("file", 2, 0, path=path).draw(Numbers())
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": -1}, r"samples=-1 .* at least 1"),
        ({"template": "Q: {}"}, r"template='Q: \{\}' does not contain \{question\}"),
        ({"source": "comonsense"}, r"'comonsense'.*Did you mean commonsense"),
    ],
)
def test_wrong_item_settings_are_named(settings: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"source": "commonsense", "samples": 1, "seed": 0}
    assert Items(**valid)
    with pytest.raises(InputError, match=message):
        Items(**valid | settings)

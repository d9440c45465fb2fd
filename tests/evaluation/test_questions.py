"""Questions of local files: what is right, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.evaluation.lm_eval_tasks import Question, read_questions
from tests.helpers.tokens import written


def test_an_answer_is_right_apart_from_white_space() -> None:
    question = Question("?", ("forty two", "42"))
    assert question.right(" forty  two\n")
    assert question.right("42")
    assert not question.right("Forty two")
    assert not question.right("forty two.")
    assert not question.right("")


def test_a_pattern_is_searched_for_and_counts_instead_of_the_answers() -> None:
    question = Question("?", ("shown",), r"(?i)^\s*paris\b")
    assert question.right(" Paris, of course")
    assert not question.right(" Parisian")
    assert not question.right("It is Paris")
    assert not question.right("shown")


def test_files_of_lines_and_of_one_array_are_read(tmp_path: Path) -> None:
    records: list[Any] = [
        {"question": "2 + 2?", "answer": 4, "id": 7},
        {"question": "Name a colour.", "answer": ["red", "blue"]},
        {"question": "Digits?", "pattern": r"\d", "answer": "12"},
    ]
    lines = written(tmp_path, "lines.jsonl", "\n".join(map(json.dumps, records)))
    array = written(tmp_path, "array.json", json.dumps(records, indent=1))
    expected = [
        Question("2 + 2?", ("4",)),
        Question("Name a colour.", ("red", "blue")),
        Question("Digits?", ("12",), r"\d"),
    ]
    assert read_questions(lines) == read_questions(array) == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["q"], "must be a JSON object"),
        ({"answer": "a"}, "the field 'question' must be text that is not blank"),
        ({"question": " ", "answer": "a"}, "the field 'question' must be text that is not blank"),
        ({"question": "q"}, "neither an 'answer' nor a 'pattern'"),
        ({"question": "q", "answer": []}, "neither an 'answer' nor a 'pattern'"),
        ({"question": "q", "answer": ["a", " "]}, "'answer' must be a text, a number"),
        ({"question": "q", "answer": True}, "'answer' must be a text, a number"),
        ({"question": "q", "answer": {"a": 1}}, "'answer' must be a text, a number"),
        ({"question": "q\ud800", "answer": "a"}, r"a text holds '\ud800', which is no Unicode"),
        ({"question": "q", "pattern": 3}, "'pattern' must be a regular expression, as text"),
        ({"question": "q", "pattern": "("}, r"'pattern' '(' is no regular expression of Python ("),
        ({"question": "q", "pattern": "a*"}, "'pattern' 'a*' also fits an empty answer"),
    ],
)
def test_a_malformed_question_is_named_by_its_line(tmp_path: Path, record: Any, message: str) -> None:
    good = json.dumps({"question": "q", "answer": "a"})
    path = written(tmp_path, "q.jsonl", f"{good}\n{json.dumps(record)}\n")
    with pytest.raises(InputError) as caught:
        read_questions(path)
    assert message in str(caught.value)
    assert "q.jsonl, line 2: " in str(caught.value)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file contains no questions"):
        read_questions(written(tmp_path, "q.jsonl", "\n\n"))

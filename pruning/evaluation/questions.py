"""Questions of local files, to which a model writes the answer. Every error names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.calibration.records import FIELD, json_records
from pruning.core.errors import InputError

FORMAT = (
    'Write {"question": "...", "answer": "..."}, several right answers as {"answer": ["...", "..."]}, or a regular '
    'expression as {"question": "...", "pattern": "..."}.'
)


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and a regular expression that a right answer contains, if there is one.

    With a pattern, the answers are only shown in examples.
    """

    question: str
    answers: tuple[str, ...]
    pattern: str | None = None

    def prompt(self, template: str) -> str:
        """The template with the question filled in."""
        return template.replace(FIELD, self.question)

    def right(self, written: str) -> bool:
        """Whether what a model wrote is right.

        It must contain the pattern or, without a pattern, be one of the answers, apart from white space around and
        within it.
        """
        if self.pattern is not None:
            return re.search(self.pattern, written) is not None
        return _plain(written) in {_plain(answer) for answer in self.answers}


def _plain(text: str) -> str:
    """A text with single spaces between its words, and none around it."""
    return " ".join(text.split())


def read_questions(path: Path) -> list[Question]:
    """The questions of a `.jsonl` file, or of a file with one JSON array. Raises InputError if one is malformed."""
    questions = [_question(record, where) for where, record in json_records(path)]
    if not questions:
        raise InputError(f"{path}: the file contains no questions. {FORMAT}")
    return questions


def _question(record: Any, where: str) -> Question:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a question must be a JSON object. {FORMAT}")
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: the field 'question' must be text that is not blank. {FORMAT}")
    answers, pattern = _answers(record, where), record.get("pattern")
    if pattern is None and not answers:
        raise InputError(f"{where}: there is neither an 'answer' nor a 'pattern'. {FORMAT}")
    if pattern is not None:
        _check_pattern(pattern, where)
    try:
        "".join((question, *answers)).encode()
    except (
        UnicodeEncodeError
    ) as error:  # half of a surrogate pair, which JSON can write and no tokenizer can read
        raise InputError(
            f"{where}: a text holds {error.object[error.start]!r}, which is no Unicode."
        ) from error
    return Question(question, answers, pattern)


def _answers(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = record.get("answer", [])
    listed: Sequence[Any] = value if isinstance(value, list) else [value]
    numbers = all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in listed)
    if not numbers or not all(str(one).strip() for one in listed):
        raise InputError(
            f"{where}: 'answer' must be a text, a number, or a list of these, none blank. {FORMAT}"
        )
    return tuple(str(one) for one in listed)


def _check_pattern(pattern: Any, where: str) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise InputError(f"{where}: 'pattern' must be a regular expression, as text. {FORMAT}")
    try:
        matches_nothing = re.compile(pattern).search("") is not None
    except re.error as error:
        raise InputError(
            f"{where}: 'pattern' {pattern!r} is no regular expression of Python ({error}): correct it."
        ) from error
    if matches_nothing:
        raise InputError(
            f"{where}: 'pattern' {pattern!r} also fits an empty answer, so every answer would be right: correct it."
        )

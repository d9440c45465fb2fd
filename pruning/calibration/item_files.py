"""Read local files: text, JSON records, and multiple-choice items in the forms of common benchmarks.

Every error names the file and the line. These forms of items are read; other fields are ignored:

| form | question | choices | right answer |
|---|---|---|---|
| this project's | `question` | `choices`, a list of strings | `answer`: an index, a letter, or a choice |
| LLM Foundry's | `query` | `choices` | `gold` |
| the hub's ARC | `question` | `choices`: {"text": [...], "label": [...]} | `answerKey`: a label |
| Commonsense 170k | `instruction` | labels after "Answer format:" | `answer`: a label |

Each name for the question can be combined with each name for the answer.
"""

from __future__ import annotations

import json
import logging
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, first_line, shown
from pruning.core.storage import text_sha256

log = logging.getLogger(__name__)

FIELD = "{question}"  # the placeholder of a template for the question
QUESTIONS = ("question", "query")
ANSWERS = ("answer", "gold", "answerKey")  # if there are several, the first is used
FORMAT = (
    'An item looks like {"question": "Which animal carries its house?", "choices": ["a horse", "a snail"], '
    '"answer": 1}. The names query, choices, gold are read as well.'
)


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and the index of the right answer."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def key(self) -> str:
        """A digest of question and choices. It ignores spacing, punctuation, case and the order of the choices."""
        texts = (self.question, *self.choices)
        question, *choices = (re.sub(r"\W+", " ", text).strip().lower() for text in texts)
        return text_sha256("\n".join([question, *sorted(choices)]))

    def pairs(self, template: str) -> list[tuple[str, str]]:
        """For each choice, the prompt that a model is given and the continuation that is scored."""
        prompt = template.replace(FIELD, self.question)
        return [(prompt, f" {choice}") for choice in self.choices]


def read_items(path: Path, *, equal_choices: bool = False) -> list[Item]:
    """All items of a file of JSON lines or a JSON array. Raises InputError if there are none or one is malformed."""
    try:
        records = list(json_records(path))
    except InputError as error:
        raise InputError(f"{error} {FORMAT}") from error
    items = [read_item(record, where, equal_choices=equal_choices) for where, record in records]
    if not items:
        raise InputError(f"{path}: the file contains no items. {FORMAT}")
    return items


def comparable_items(path: Path) -> list[Item]:
    """The items of a file that an objective can compare: those without equal choices.

    Some items of real benchmarks, such as ARC, have equal choices. The number of items left out is logged.
    Raises InputError as `read_items` does, and also if no item is left.
    """
    items = read_items(path, equal_choices=True)
    kept = [item for item in items if len({choice.strip() for choice in item.choices}) == len(item.choices)]
    if not kept:
        raise InputError(f"{path}: every item has equal choices, which no objective can compare. {FORMAT}")
    if left_out := len(items) - len(kept):
        log.info("%s: %d of %d items have equal choices and are left out", path, left_out, len(items))
    return kept


def read_item(record: Any, where: str, *, equal_choices: bool = False) -> Item:
    """The item in a record. If it is malformed, raises InputError, which begins with `where` and shows the format.

    Two choices may be equal only if `equal_choices` is true: some items of ARC have equal choices, and lm-eval
    accepts them, but an objective cannot compare them.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: an item must be a JSON object, not {shown(record)}. {FORMAT}")
    if "instruction" in record and "choices" not in record:
        return _labelled_item(record, where)
    try:
        question = _question(record)
        choices, labels = _choices(record, equal_choices)
        return Item(question, choices, _answer(record, choices, labels))
    except ValueError as error:
        raise InputError(f"{where}: {error} {FORMAT}") from error


def checked_item(item: Item, where: str) -> Item:
    """An item made in Python, after the same checks as a record's. Raises InputError as `read_item` does."""
    choices = list(item.choices) if isinstance(item.choices, list | tuple) else item.choices
    record = {"question": item.question, "choices": choices, "answer": item.answer}
    return read_item(record, where, equal_choices=True)


def _labelled_item(record: Mapping[str, Any], where: str) -> Item:
    """The item in a record of Commonsense 170k; the labels are scored, not the texts of the answers.

    The instruction ends in "Answer format: answer1/answer2/..." (or true/false, solution1/..., ending1/...,
    option1/...). The wrong choices are the other labels of this list. Raises InputError if the record is malformed.
    Source: github.com/AGI-Edgerunners/LLM-Adapters, ft-training_set/commonsense_170k.json.
    """
    instruction, answer = str(record.get("instruction", "")), str(record.get("answer", "")).strip()
    match = re.search(r"answer format:\s*(?P<labels>\S+)\s*$", instruction, re.IGNORECASE)
    if not match:
        raise InputError(f"{where}: the instruction does not end in 'Answer format: label1/label2'.")
    labels = tuple(match["labels"].split("/"))
    if len(labels) < 2 or answer not in labels:
        raise InputError(f"{where}: the answer '{answer}' is not one of the labels {', '.join(labels)}.")
    return Item(instruction, labels, labels.index(answer))


# Each function reads one field of an item. If the field is malformed, it raises ValueError with one sentence.


def _question(record: Mapping[str, Any]) -> str:
    """The text in the first field of `QUESTIONS` that the record has. Raises ValueError if it is blank or no text."""
    name = next((name for name in QUESTIONS if name in record), QUESTIONS[0])
    if not isinstance(value := record.get(name), str):
        raise ValueError(f"the field '{name}' must be text, not {shown(value)}.")
    if not value.strip():
        raise ValueError(f"the field '{name}' holds nothing but white space.")
    check_encodable(value, name)
    return value


def _choices(record: Mapping[str, Any], equal_choices: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices, and their labels if the record has any."""
    name = "choices"
    value: Any = record.get(name)
    labels: tuple[str, ...] = ()
    if isinstance(value, Mapping):
        labels = tuple(map(str, value.get("label") or ()))
        value = value.get("text")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(one, str) for one in value):
        raise ValueError(f"'{name}' must list at least two texts, not {shown(record.get(name))}.")
    if not all(map(str.strip, value)):
        raise ValueError(f"'{name}' must list at least two texts, none of them empty.")
    for one in value:
        check_encodable(one, name)
    if not equal_choices and len(set(map(str.strip, value))) < len(value):
        raise ValueError(f"'{name}' must differ from each other.")
    if labels and len(labels) != len(value):
        raise ValueError(f"'{name}' has {len(value)} texts and {len(labels)} labels.")
    return tuple(value), labels


def _answer(record: Mapping[str, Any], choices: Sequence[str], labels: Sequence[str]) -> int:
    """The index of the right choice. A string must equal exactly one choice or label."""
    name = next((name for name in ANSWERS if name in record), ANSWERS[0])
    value = record.get(name)
    if type(value) is int and 0 <= value < len(choices):
        return value
    if isinstance(value, str):
        named = labels or string.ascii_uppercase[: len(choices)]
        texts = {i for i, choice in enumerate(choices) if choice.strip() == value.strip()}
        letters = {i for i, label in enumerate(named) if label == value.strip()}
        if len(found := texts | letters) == 1:
            return found.pop()
    raise ValueError(
        f"'{name}' must be an index from 0 to {len(choices) - 1}, not {shown(value)}; the letter or the exact text "
        "of one choice is read as well."
    )


# Files of text and of records.


def existing(path: str | None, setting: str = "calibration.path") -> Path:
    """The path as a `Path`. Unless it is a readable, non-empty file, raises InputError, which names the setting."""
    if not path:
        raise InputError(f"{setting} is not set: give {setting}=FILE.")
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise InputError(f"{setting}={path} is a folder, and a file is needed: give the path of a file.")
        if not file.is_file():
            raise InputError(f"{setting}={path}: there is no such file.")
        with file.open("rb") as stream:
            if not stream.read(1):
                raise InputError(f"{setting}={path}: the file is empty.")
    except OSError as error:
        raise InputError(
            f"{setting}={path} cannot be read ({first_line(error.strerror or error)}): make it readable, or give "
            "another file."
        ) from error
    return file


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises InputError with the position of the first byte that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): convert it first.") from error


def json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) for each record of a `.jsonl` file or of a file with one JSON array.

    `where` is "FILE, line N" or "FILE, item N". Raises InputError if the file is neither.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        for number, record in enumerate(_parsed(text, path), start=1):
            yield f"{path}, item {number}", record
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parsed(line, path, number)


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    """The value of a JSON text: one line of a file, or the whole file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = line or getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: this is not JSON ({getattr(error, 'msg', error)}).") from error


def check_encodable(text: str, name: str) -> None:
    """Raise ValueError if a string has an unpaired surrogate, which JSON allows and tokenizers do not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"'{name}' holds the character {text[error.start]!r}, which is not Unicode text."
        ) from error


def text_field(record: Any, name: str, where: str) -> str:
    """The text in a field of a record. Raises InputError if the field is missing or is not Unicode text."""
    if not isinstance(record, dict) or not isinstance(record.get(name), str):
        raise InputError(f"{where}: the field '{name}' must be text.")
    try:
        check_encodable(record[name], name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return str(record[name])

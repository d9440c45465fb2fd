"""Multiple-choice items from records in the forms that common benchmarks use.

| form | question | choices | right answer |
|---|---|---|---|
| this project's | `question` | `choices`, a list of texts | `answer`: an index, a letter, or the text of a choice |
| LLM Foundry's, multiple choice | `query` | `choices` | `gold` |
| LLM Foundry's, schema (Winogrande) | `continuation` | `context_options`: a context per choice | `gold` |
| the hub's ARC | `question` | `choices`: {"text": [...], "label": [...]} | `answerKey`: a label |
| Commonsense 170k | `instruction` | labels after "Answer format:" | `answer`: a label |

Other fields are ignored. The names of questions and of answers can be combined freely.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.calibration.commonsense170k import labelled_item
from pruning.calibration.records import Item, check_encodable, json_records
from pruning.core.errors import InputError, shown

log = logging.getLogger(__name__)
_said: set[Path] = set()  # what is left out of a file is reported once, although many cells read it

QUESTIONS = ("question", "query")
ANSWERS = ("answer", "gold", "answerKey")  # of several, the first counts
FORMAT = (
    'An item looks like {"question": "Which animal carries its house?", "choices": ["a horse", "a snail"], '
    '"answer": 1}. The names query, choices, gold and context_options, continuation, gold are read as well '
    "(docs/evaluation.md)."
)


def read_items(path: Path, *, equal_choices: bool = False) -> list[Item]:
    """All items of a file of JSON lines or of a JSON array. Raises InputError if there are none or one is malformed.

    The items of a file have either a question each or contexts each, because lm-eval asks them in different ways.
    """
    items = [read_item(record, where, equal_choices=equal_choices) for where, record in _records(path)]
    if not items:
        raise InputError(f"{path}: the file contains no items. {FORMAT}")
    if len({item.continuation is None for item in items}) > 1:
        raise InputError(
            f"{path}: some items have context_options and others a question: put the two forms into two files."
        )
    return items


def comparable_items(path: Path) -> list[Item]:
    """The items of a file whose choices all differ, for an objective. Raises InputError as `read_items` does.

    Some items of real benchmarks, such as ARC, have equal choices. These are left out, and their number is logged.
    """
    items = read_items(path, equal_choices=True)
    kept = [item for item in items if len({choice.strip() for choice in item.choices}) == len(item.choices)]
    if not kept:
        raise InputError(f"{path}: every item has equal choices, which no objective can compare. {FORMAT}")
    if len(kept) < len(items) and path not in _said:
        _said.add(path)
        log.info(
            "%s: %d of %d items have equal choices and are left out",
            *(path, len(items) - len(kept), len(items)),
        )
    return kept


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from json_records(path)
    except InputError as error:
        raise InputError(f"{error} {FORMAT}") from error


def read_item(record: Any, where: str, *, equal_choices: bool = False) -> Item:
    """The item in a record. Raises InputError, which begins with `where` and shows the format, if it is malformed.

    Two choices may be equal only if `equal_choices` is true: some items of ARC have equal choices, and lm-eval
    accepts them, but an objective cannot compare them.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: an item must be a JSON object, not {shown(record)}. {FORMAT}")
    if "instruction" in record and "choices" not in record:
        return labelled_item(record, where)
    try:
        return _item(record, equal_choices)
    except ValueError as error:
        raise InputError(f"{where}: {error} {FORMAT}") from error


def checked_item(item: Item, where: str) -> Item:
    """An item that was made in Python. Raises InputError as `read_item` does."""
    choices = list(item.choices) if isinstance(item.choices, list | tuple) else item.choices
    named = "choices" if item.continuation is None else "context_options"
    record = {"question": item.question, named: choices, "answer": item.answer}
    return read_item(record | {"continuation": item.continuation}, where, equal_choices=True)


def _item(record: Mapping[str, Any], equal_choices: bool) -> Item:
    """The item in a record. Raises ValueError, whose text is a sentence, if the record is malformed."""
    if "context_options" in record:
        contexts, _ = _choices(record, "context_options", equal_choices)
        continuation = _text(record, ("continuation",))
        return Item("", contexts, _answer(record, contexts, ()), continuation)
    question = _text(record, QUESTIONS)
    choices, labels = _choices(record, "choices", equal_choices)
    return Item(question, choices, _answer(record, choices, labels))


def _text(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text in the first of these fields. A blank text asks nothing, so it is refused."""
    value = next((record[name] for name in names if name in record), None)
    if not isinstance(value, str):
        raise ValueError(f"the field '{names[0]}' must be text, not {shown(value)}.")
    if not value.strip():
        raise ValueError(f"the field '{names[0]}' holds nothing but white space.")
    check_encodable(value, names[0])
    return value


def _choices(
    record: Mapping[str, Any], name: str, equal_choices: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices, and their labels if the record has any."""
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
    """The index of the right choice. A text must agree with exactly one choice or label: nothing is guessed."""
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

"""Local files as records: text, lines of JSON, multiple-choice items. Every error names the file and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.hashing import text_sha256


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def key(self) -> str:
        """A digest that is equal for items that ask the same, whatever their spacing, case or order of choices."""
        question, *choices = (re.sub(r"\W+", " ", t).strip().lower() for t in (self.question, *self.choices))
        return text_sha256("\n".join([question, *sorted(choices)]))


def existing(path: str | None, setting: str = "calibration.path") -> Path:
    """The path of a file that exists and is not empty. Raises InputError that names the setting."""
    if not path:
        raise InputError(f"a file is needed: give {setting}=FILE.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{setting}={path}: there is no such file.")
    if file.stat().st_size == 0:
        raise InputError(f"{setting}={path}: the file is empty.")
    return file


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises InputError with the position of a byte that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): convert it first.") from error


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (file and line, record) for each line of a `.jsonl` file. Raises InputError if a line is not JSON."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: this is no JSON ({error.msg}).") from error


def text_field(record: Any, name: str, where: str) -> str:
    """A field of a record that must be text. Raises InputError if it is not."""
    if not isinstance(record, dict) or not isinstance(record.get(name), str):
        raise InputError(f"{where}: a text '{name}' is needed.")
    return str(record[name])


def item(record: Any, where: str) -> Item:
    """The item of a record {"question", "choices", "answer"}. Raises InputError that says what is wrong with it."""
    question = text_field(record, "question", where)
    choices, answer = record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise InputError(f"{where}: 'choices' must list at least two texts.")
    if len({choice.strip() for choice in choices}) < len(choices) or not all(map(str.strip, choices)):
        raise InputError(f"{where}: 'choices' must be different from each other, and none of them empty.")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise InputError(
            f"{where}: no right answer: 'answer' must be an index from 0 to {len(choices) - 1}, not {answer!r}."
        )
    return Item(question, tuple(choices), answer)

"""Readers of local files: text, JSON lines, multiple-choice items. Every error names the file and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, first_line
from pruning.core.hashing import text_sha256


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and the index of the right answer."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def key(self) -> str:
        """A digest of question and choices. It ignores spacing, punctuation, case and the order of the choices."""
        question, *choices = (re.sub(r"\W+", " ", t).strip().lower() for t in (self.question, *self.choices))
        return text_sha256("\n".join([question, *sorted(choices)]))


def existing(path: str | None, setting: str = "calibration.path") -> Path:
    """The path as a `Path`. Raises InputError, which names the setting, unless it is a file that can be read."""
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


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ("FILE, line N", record) for each line of a `.jsonl` file. Raises InputError if a line is not JSON."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: this is not JSON ({error.msg}).") from error


def text_field(record: Any, name: str, where: str) -> str:
    """The text in a field of a record. Raises InputError if the field is missing or not text."""
    if not isinstance(record, dict) or not isinstance(record.get(name), str):
        raise InputError(f"{where}: the field '{name}' must be text.")
    return str(record[name])


def item(record: Any, where: str) -> Item:
    """The item in a record {"question", "choices", "answer"}. Raises InputError if the record is malformed."""
    question = text_field(record, "question", where)
    choices, answer = record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise InputError(f"{where}: 'choices' must list at least two texts.")
    if len({choice.strip() for choice in choices}) < len(choices) or not all(map(str.strip, choices)):
        raise InputError(f"{where}: 'choices' must differ from each other, and none may be empty.")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise InputError(f"{where}: 'answer' must be an index from 0 to {len(choices) - 1}, not {answer!r}.")
    return Item(question, tuple(choices), answer)

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

FIELD = "{question}"  # what a template fills in


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and the index of the right answer.

    If there is a `continuation`, as in Winogrande, the choices are contexts, the right one is the context that the
    continuation fits, and there is no question.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    continuation: str | None = None

    @property
    def key(self) -> str:
        """A digest of question and choices. It ignores spacing, punctuation, case and the order of the choices."""
        asked = self.question if self.continuation is None else self.continuation
        question, *choices = (re.sub(r"\W+", " ", t).strip().lower() for t in (asked, *self.choices))
        return text_sha256("\n".join([question, *sorted(choices)]))

    def pairs(self, template: str) -> list[tuple[str, str]]:
        """For each choice, the context that a model is given and the continuation that is scored.

        A template has no effect on an item whose choices are contexts: they are whole sentences.
        """
        if self.continuation is not None:
            return [(context, f" {self.continuation}") for context in self.choices]
        prompt = template.replace(FIELD, self.question)
        return [(prompt, f" {choice}") for choice in self.choices]


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
            yield where, _parsed(line, where)


def json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, record) for each record of a `.jsonl` file or of a file with one JSON array.

    `where` is "FILE, line N" or "FILE, item N". Raises InputError if the file is neither.
    """
    text = read_text(path).lstrip()
    if not _is_array(text):
        yield from json_lines(path)
        return
    for number, record in enumerate(_parsed(text, str(path)), start=1):
        yield f"{path}, item {number}", record


def _is_array(text: str) -> bool:
    """Whether a text begins an array of objects. A first line such as ["a"] is a wrong line of a `.jsonl` file."""
    if not text.startswith("["):
        return False
    try:
        first = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return True
    return bool(first) and all(isinstance(one, dict) for one in first)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{where}: this is not JSON ({reason}).") from error


def check_encodable(text: str, name: str) -> None:
    """Raise ValueError if a text holds half of a surrogate pair, which JSON can write and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"'{name}' holds the character {text[error.start]!r}, which is no Unicode text."
        ) from error


def text_field(record: Any, name: str, where: str) -> str:
    """The text in a field of a record. Raises InputError if the field is missing or no Unicode text."""
    if not isinstance(record, dict) or not isinstance(record.get(name), str):
        raise InputError(f"{where}: the field '{name}' must be text.")
    try:
        check_encodable(record[name], name)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return str(record[name])

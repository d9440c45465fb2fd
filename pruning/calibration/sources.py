"""Where samples come from: embedded with the program or Python, a local file, or a data set of a hub.

Embedded sources have two parts that share nothing, whatever the seed: `calibration` and `heldout`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import InputError, UnreachableError, first_line, unknown

if TYPE_CHECKING:
    from pruning.calibration.items import Items
    from pruning.calibration.text import Text

TEXTS = ("pydoc", "wikipedia_sample", "file", "hub")
ITEMS = ("commonsense", "file", "commonsense170k")
PARTS = ("calibration", "heldout")
HELDOUT_SHARE = 0.25  # of the embedded text's documents


@dataclass(frozen=True)
class Item:
    """A question, its possible answers, and the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def key(self) -> str:
        """Equal for items that ask the same, however they are spaced, spelt or ordered."""
        question, *choices = (re.sub(r"\W+", " ", t).strip().lower() for t in (self.question, *self.choices))
        return hashlib.sha256("\n".join([question, *sorted(choices)]).encode()).hexdigest()


def check_settings(settings: Text | Items, known: Iterable[str]) -> None:
    """Raise InputError for a source or a part that is not known, or a hub source that names no data set."""
    if settings.source not in known:
        raise unknown(f"source of {settings.kind}", settings.source, known)
    if settings.part not in PARTS:
        raise unknown("calibration.part", settings.part, PARTS)
    if settings.source == "hub" and not settings.path:
        raise InputError("the name of a data set is needed: give calibration.path=NAME.")


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that the generator of random numbers does not take."""
    if seed < 0:
        raise InputError(f"calibration.seed={seed} is negative: choose a number from 0 on.")


def documents(text: Text) -> Iterator[str]:
    """The documents of a text source, in order (of the seed, where a data set is streamed)."""
    if text.source == "pydoc":
        return pydoc(text.part)
    if text.source == "wikipedia_sample":
        from pruning.calibration.wikipedia import articles

        return _part(articles(), text.part)
    if text.source == "file":
        return _file_documents(existing(text.path), text.column)
    return _hub_documents(text)


def items(settings: Items) -> list[Item]:
    """All items of a source. Raises InputError that names the line of a malformed one."""
    if settings.source == "commonsense":
        # Alternate lines, so that both parts have every topic of the file.
        return embedded_items()[PARTS.index(settings.part) :: 2]
    if settings.source == "file":
        path = existing(settings.path)
        return [_item(record, where) for where, record in json_lines(path)]
    from pruning.calibration.commonsense170k import load

    return load(settings)


def is_local(settings: Items) -> bool:
    """Whether `path` is a file here rather than the name of a data set."""
    return settings.source == "file" or bool(settings.path and Path(settings.path).expanduser().is_file())


def pydoc(part: str) -> Iterator[str]:
    """The Python language reference that every Python carries, without the passages it holds twice."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    whole: list[tuple[str, str]] = []
    for topic in sorted(topics):
        paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", topics[topic])]
        fresh = [p for p in paragraphs if p and p not in seen]
        seen.update(fresh)
        whole.append((topic, "\n\n".join(fresh)))
    return _part(whole, part)


def embedded_items() -> list[Item]:
    """The multiple-choice items written for this project (Apache-2.0)."""
    path = Path(str(resources.files("pruning") / "data" / "commonsense.jsonl"))
    return [_item(record, where) for where, record in json_lines(path)]


def existing(path: str | None) -> Path:
    """The path of a file that must be there and hold something."""
    if not path:
        raise InputError("a file is needed: give calibration.path=FILE.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"calibration.path={path}: there is no such file.")
    if file.stat().st_size == 0:
        raise InputError(f"calibration.path={path}: the file is empty.")
    return file


def _part(named: Iterable[tuple[str, str]], part: str) -> Iterator[str]:
    """The documents of one part: a document's name decides, so no seed can move it to the other."""
    for name, document in named:
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        if document and (share < HELDOUT_SHARE) == (part == "heldout"):
            yield document


def _file_documents(path: Path, column: str) -> Iterator[str]:
    if path.suffix == ".jsonl":
        for where, record in json_lines(path):
            yield text_field(record, column, where)
    elif path.suffix == ".parquet":
        import pandas

        try:
            frame = pandas.read_parquet(path)
        except (OSError, ValueError) as error:  # what pyarrow raises is a ValueError
            raise InputError(f"{path} is no parquet file ({first_line(error)}).") from error
        if column not in frame:
            raise InputError(
                f"{path} has no column '{column}', but {[*map(str, frame)]}: set calibration.column."
            )
        yield from map(str, frame[column].dropna())
    else:
        yield read_text(path)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; raises InputError with the byte where it is not one."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): convert it first.") from error


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a `.jsonl` file, each with where it stands. Raises InputError for what is no JSON."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: this is no JSON ({error.msg}).") from error


def text_field(record: Any, name: str, where: str) -> str:
    """A field of a record that must be text; raises InputError where it is not."""
    if not isinstance(record, dict) or not isinstance(record.get(name), str):
        raise InputError(f"{where}: a text '{name}' is needed.")
    return str(record[name])


def _item(record: Any, where: str) -> Item:
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


def hub_errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises where a data set cannot be had or read."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)


def _hub_documents(text: Text) -> Iterator[str]:
    import datasets

    name = f"{text.path}{'/' + text.name if text.name else ''}"
    try:
        data = datasets.load_dataset(
            text.path, text.name, split=text.split, revision=text.revision, streaming=text.stream
        )
        if text.stream:
            data = data.shuffle(seed=text.seed, buffer_size=10_000)
        for record in data:
            if record[text.column]:
                yield record[text.column]
    except hub_errors() as error:
        raise UnreachableError(
            f"the data set {name} cannot be read ({first_line(error)}): check its name and the network, "
            "or use local text: calibration=text_file calibration.path=FILE."
        ) from error
    except KeyError as error:
        raise InputError(
            f"the data set {name} has no column '{text.column}': set calibration.column."
        ) from error

"""Where samples come from: embedded with the program or Python, a local file, or a data set of a hub.

Embedded sources have two parts that share nothing, whatever the seed: `calibration` and `heldout`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from pruning.calibration.records import Item, existing, item, json_lines, read_text, text_field
from pruning.calibration.source_settings import Source, TextSource, hub_errors
from pruning.core.errors import InputError, UnreachableError, first_line, unknown

TEXTS = ("pydoc", "wikipedia_sample", "file", "hub")
ITEMS = ("commonsense", "file", "commonsense170k")
PARTS = ("calibration", "heldout")
HELDOUT_SHARE = 0.25  # of the embedded text's documents


def check_source(settings: Source, kind: str, known: Iterable[str]) -> None:
    """Raise InputError for an unknown source or part, or a hub source that names no data set."""
    if settings.source not in known:
        raise unknown(f"source of {kind}", settings.source, known)
    if settings.part not in PARTS:
        raise unknown("calibration.part", settings.part, PARTS)
    if settings.source == "hub" and not settings.path:
        raise InputError("the name of a data set is needed: give calibration.path=NAME.")


def documents(text: TextSource, prefix: str = "calibration") -> Iterator[str]:
    """The documents of a text source, in order; if a data set is streamed, in the order of the seed.

    `prefix` is the group or setting that errors name. Raises InputError or UnreachableError.
    """
    if text.source == "pydoc":
        return pydoc(text.part)
    if text.source == "wikipedia_sample":
        from pruning.calibration.wikipedia import articles

        return _part(articles(), text.part)
    if text.source == "file":
        return _file_documents(existing(text.path, f"{prefix}.path"), text.column, f"{prefix}.column")
    return _hub_documents(text)


def items(settings: Source, prefix: str = "calibration") -> list[Item]:
    """All items of a source. Raises InputError that names the line of a malformed one."""
    if settings.source == "commonsense":
        return embedded_items(settings.part)
    if settings.source == "file":
        return [
            item(record, where) for where, record in json_lines(existing(settings.path, f"{prefix}.path"))
        ]
    from pruning.calibration.commonsense170k import load

    return load(settings, prefix)


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


def embedded_items(part: str) -> list[Item]:
    """One part of the multiple-choice items written for this project (Apache-2.0).

    The parts take alternate lines, so that both have every topic of the file.
    """
    path = Path(str(resources.files("pruning") / "data" / "commonsense.jsonl"))
    return [item(record, where) for where, record in json_lines(path)][PARTS.index(part) :: 2]


def _part(named: Iterable[tuple[str, str]], part: str) -> Iterator[str]:
    """The documents of one part. A digest of a document's name decides, so that no seed can move it."""
    for name, document in named:
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        if document and (share < HELDOUT_SHARE) == (part == "heldout"):
            yield document


def _file_documents(path: Path, column: str, setting: str) -> Iterator[str]:
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
            raise InputError(f"{path} has no column '{column}', but {[*map(str, frame)]}: set {setting}.")
        yield from map(str, frame[column].dropna())
    else:
        yield read_text(path)


def _hub_documents(text: TextSource) -> Iterator[str]:
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

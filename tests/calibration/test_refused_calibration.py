"""Sources, files, windows and items that cannot be used: the error names the setting or line, and the value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.items import Items
from pruning.calibration.sources import TextSource
from pruning.calibration.text import Both, Mixed, Text
from pruning.core.errors import InputError
from tests.calibration.test_items import BOOLQ, settings
from tests.calibration.test_text import text
from tests.helpers.tokens import Numbers, written

Given = dict[str, Any]
ITEMS: Given = {"source": "commonsense", "samples": 1, "seed": 0}
WINDOWS: Given = {"source": "pydoc", "samples": 1, "length": 8, "seed": 0}


def source(_: Path, given: Given) -> None:
    TextSource(**given).check("x")


def windows(_: Path, given: Given) -> None:
    Text(**WINDOWS | given)


def items(_: Path, given: Given) -> None:
    Items(**ITEMS | given).draw(Numbers())


def labels(folder: Path, changed: Given) -> None:
    path = written(folder, "c.json", [BOOLQ, BOOLQ | changed])
    Items("commonsense170k", 1, 0, path=str(path)).pool()


def task(folder: Path, changed: Given) -> None:
    settings(folder, **changed).draw(Numbers())


def made(folder: Path, make: Callable[[Path], Any]) -> None:
    make(folder).draw(Numbers())


def file(folder: Path, given: tuple[str, bytes | None]) -> None:
    name, content = given
    if content is not None:
        (folder / name).write_bytes(content)
    list(TextSource("file", path=str(folder / name)).documents("calibration"))


PYDOC, SOME = Text("pydoc", 5, 16, 3), Items("commonsense", 7, 3)
MANY = replace(SOME, samples=10**6)
STREAM = {"source": "hub", "path": "a", "stream": True, "disjoint": True}
HALF = b'{"text": "right"}\n{"text": "a \\ud800 b"}'
SOURCES: dict[str, tuple[Given, str]] = {
    "source": ({"source": "pydok"}, r"\.source 'pydok'.*pydoc"),
    "no path": ({"source": "hub"}, r"\.path .*{}\.path=NAME"),
    "path": ({"source": "pydoc", "path": "notes.txt"}, r"\.path=notes\.txt .*{}\.source=pydoc"),
    "part": ({"source": "pydoc", "part": "held"}, r"\.part 'held'.*heldout"),
}
C = "calibration"
# By case: what is attempted, with what, and what the message names.
REFUSED: dict[str, tuple[Callable[[Path, Any], object], Any, str]] = {
    **{f"x.{name}": (source, given, "x" + named.format("x")) for name, (given, named) in SOURCES.items()},
    **{name: (windows, given, C + named.format(C)) for name, (given, named) in SOURCES.items()},
    "no file": (file, ("none.txt", None), r"calibration\.path=.*none\.txt"),
    "a folder": (file, (".", None), r"calibration\.path=/"),
    "an empty file": (file, ("empty.jsonl", b""), r"empty\.jsonl"),
    "bytes": (file, ("latin.txt", b"Gr\xf6\xdfe"), r"latin\.txt .*UTF-8.*byte 2"),
    "no JSON lines": (file, ("a.jsonl", b'{"text": "one"}\n\n{"text": '), r"a\.jsonl, line 3: .*JSON"),
    "no JSON": (file, ("a.json", b'[{"text": "one"},\n\'a\']'), r"a\.json, line 2: .*JSON"),
    "no column": (file, ("a.jsonl", b'{"text": "one"}\n{"body": "x"}'), r"a\.jsonl, line 2: .*'text'"),
    "a list": (file, ("a.jsonl", b'{"text": "one"}\n[1]'), r"a\.jsonl, line 2: .*'text'"),
    "half a character": (file, ("a.jsonl", HALF), r"a\.jsonl, line 2: 'text' .*ud800"),
    "items: samples": (items, {"samples": -1}, r"calibration\.samples=-1 .*1"),
    "items: too few": (items, {"samples": 10_000}, r"calibration\.samples=10000"),
    "items: template": (items, {"template": "Q: {}"}, r"calibration\.template='Q: \{\}' .*\{question\}"),
    "items: source": (items, {"source": "comonsense"}, r"calibration\.source 'comonsense'.*commonsense"),
    "items: path": (items, {"path": "x.jsonl"}, r"\.path=x\.jsonl .*calibration\.source=commonsense"),
    "items: part": (items, {"part": "other"}, r"calibration\.part 'other'"),
    "answer": (labels, {"answer": "maybe"}, r"c\.json, item 2: .*'maybe' .*true, false"),
    "instruction": (labels, {"instruction": "do fish swim?"}, r"c\.json, item 2: .*'Answer format"),
    "task: too few": (task, {"samples": 13}, "24 .*13 .*12 "),
    "task: held out": (task, {"heldout": 0}, r"calibration\.heldout=0 .*1"),
    "task: source": (task, {"source": "web"}, r"calibration\.source 'web'"),
    "task: template": (task, {"template": "no field"}, r"calibration\.template=.*\{question\}"),
    "task: no path": (task, {"path": None}, r"calibration\.path .*calibration\.path="),
    "task: split": (task, {"source": "commonsense", "split": 1}, r"calibration\.split=1 .*commonsense"),
    "samples": (windows, {"samples": 0}, r"calibration\.samples=0 .*1"),
    "length": (windows, {"length": 7}, r"calibration\.length=7 .*8"),
    "stream": (windows, STREAM, "stream=false, .*disjoint=false"),
    "kind": (made, lambda _: Both(SOME, SOME), r"calibration\.text .*items"),
    "too few items": (made, lambda f: Both(text(f, 0), MANY), r"calibration\.items\.samples=1000000"),
    "second kind": (made, lambda _: Mixed(PYDOC, SOME, 4, 16, 0), r"calibration\.second .*items"),
    "one of two": (made, lambda _: Mixed(PYDOC, PYDOC, 1, 16, 0), r"calibration\.samples=1 .*2"),
    "shared": (made, lambda f: Mixed(text(f, 0), text(f, 0), 30, 16, 0), r"\.first .*\.second .*\d+ runs"),
    "short": (made, lambda f: replace(text(f, 0), samples=51), r"from0\.jsonl .*400 .*51 .*8 .*408"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_or_drawn_is_refused(tmp_path: Path, case: str) -> None:
    attempt, given, named = REFUSED[case]
    with pytest.raises(InputError, match=named):
        attempt(tmp_path, given)

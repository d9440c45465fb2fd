"""What is measured, each measurement once; what is missing; and what explains a gap."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.sources import TextSource
from pruning.core.errors import InputError, LossError, PruningError
from pruning.core.mask import Mask
from pruning.models.handle import Model
from pruning.published import library, measure
from pruning.published.library import (
    ModelFacts,
    PrintedSource,
    Protocol,
    PublishedMask,
    PublishedNumber,
    Theirs,
)
from pruning.published.measure import (
    VERDICTS,
    Explained,
    Referee,
    explained,
    requests,
    rows,
)
from tests.conftest import N_BLOCKS

ONE = {
    "wikitext2": Protocol(path="Salesforce/wikitext", name="wikitext-2-raw-v1"),
    "c4": Protocol(path="allenai/c4", name="en", split="validation", stream=True, join=" ", documents=1100),
}


def test_there_is_a_row_for_each_number_and_one_for_a_mask_without_a_number() -> None:
    entries = library.chosen(["sleb", "pudding"])
    rows = measure.rows(entries, ONE)
    assert len(rows) == 6 + 14
    assert {row.corpus for row in rows if row.number is None} == {"wikitext2"}


def test_each_measurement_is_asked_for_once_and_a_model_is_loaded_once_for_each_precision() -> None:
    rows = measure.rows(library.entries(), ONE)
    requests = measure.requests(rows)
    assert len(requests) == len(set(requests)) < sum(len(row.requests()) for row in rows)
    loads = [key for key, _ in groupby(requests, key=lambda r: (r.model.name, r.protocol.dtype))]
    assert len(loads) == len(set(loads))


def test_a_local_file_replaces_the_text_and_nothing_else() -> None:
    (entry,) = library.chosen(["evopress-llama2-8"])
    row, other = measure.rows([entry], ONE, {"wikitext2": "wiki.txt"})
    assert row.one is not None
    assert row.own is not None
    assert row.one.text == row.own.text == TextSource("file", "wiki.txt", split="test", part="heldout")
    assert (row.own.window, row.own.start, row.own.dtype) == (4096, "none", "float16")
    assert other.own == next(n.theirs.protocol for n in entry.numbers if n.theirs.corpus == "c4")


SOURCE = PrintedSource("https://x", "table", "read")


def referee(tmp_path: Path) -> Referee:
    return Referee(tmp_path, Model("base", "packaged", "smollm2"))


def row(model: ModelFacts, protocol: Protocol) -> measure.GapRow:
    entry = PublishedMask("e", "paper", model, "m", Mask(model.blocks, (1,)), SOURCE, 1, ())
    return measure.GapRow(entry, "text", None, protocol, None)


def test_models_and_texts_that_are_here_are_found(tmp_path: Path, model_folder: Path) -> None:
    model = ModelFacts("tiny", "local", str(model_folder), N_BLOCKS)
    assert measure.missing([row(model, Protocol("pydoc"))], referee(tmp_path)) == []


def test_everything_that_is_missing_is_named(tmp_path: Path) -> None:
    model = ModelFacts("big", "hub", "nobody/nothing", 32)
    here, there = Protocol(path="nobody/text"), Protocol("file", "gone.txt")
    rows = [row(model, here), row(model, there), row(model, Protocol(path="nobody/text", window=64))]
    found = measure.missing(rows, referee(tmp_path))
    assert len(found) == 3, "two protocols on one text are one text"
    for part, line in zip(("nobody/nothing", "nobody/text", "gone.txt"), found, strict=True):
        assert part in line


def test_a_model_with_other_blocks_is_refused(tmp_path: Path, model_folder: Path) -> None:
    model = ModelFacts("tiny", "local", str(model_folder), N_BLOCKS + 1)
    with pytest.raises(InputError, match=f" {N_BLOCKS} blocks, .*tiny .* {N_BLOCKS + 1}: "):
        measure.missing([row(model, Protocol("pydoc"))], referee(tmp_path))


MODEL = ModelFacts("m", "hub", "o/m", 8)
WIKI = Protocol(path="wiki", window=2048)
OWN = Protocol(path="wiki", window=4096, start="none", dtype="float16")
Given = dict[tuple[Protocol, int], float | PruningError]


def entry(
    dropped: tuple[int, ...] = (1, 2), value: float = 10.0, pairing: str = "printed_together", **theirs: Any
) -> PublishedMask:
    """A mask, or the dense model, with a number; `theirs` changes the number's protocol."""
    number = PublishedNumber(value, replace(Theirs("wikitext2", OWN), **theirs), SOURCE, pairing)
    return PublishedMask(
        f"e{len(dropped)}", "paper", MODEL, "method", Mask(8, dropped), SOURCE, None, (number,)
    )


DENSE = entry((), value=5.0)


def verdicts(entries: list[PublishedMask], given: Given, one: str = "wikitext2") -> list[Explained]:
    """The verdicts. `given` has values by protocol and number of removed blocks; what is not given is 12."""
    made = rows(entries, {one: WIKI})
    return explained(made, {r: given.get((r.protocol, len(r.mask.dropped)), 12.0) for r in requests(made)})


FAILED = LossError("not finite")
# By case: the entries, the values, and of the first entry the verdict and what its text says.
CASES: dict[str, tuple[list[PublishedMask], Given, str, str]] = {
    "found in both": ([entry()], {(WIKI, 2): 10.09, (OWN, 2): 9.91}, "none", "^$"),
    "the protocol": (
        [entry()],
        {(OWN, 2): 10.05},
        "protocol",
        "^window 2048 -> 4096, start window -> none, dtype bfloat16 -> float16$",
    ),
    "too far": ([entry()], {(WIKI, 2): 10.0, (OWN, 2): 10.2}, "unexplained", "2.00 %"),
    "the mask": ([entry(), DENSE], {(OWN, 2): 20.0, (OWN, 0): 5.01}, "unexplained", "^x 2 .*agrees"),
    "the model": ([entry(), DENSE], {(OWN, 2): 11.0, (OWN, 0): 5.5}, "unexplained", "differs.* .10.00 %"),
    "a failed model": (
        [entry(), DENSE],
        {(OWN, 2): 20.0, (OWN, 0): FAILED},
        "unexplained",
        "dense .*measured",
    ),
    "inferred": ([entry(pairing="inferred")], {(OWN, 2): 20.0}, "unexplained", library.PAIRINGS["inferred"]),
    "not stated": ([entry(unknown=("dtype",))], {}, "unexplained", "ours: dtype"),
    "not followed": ([entry(not_reproduced="random windows")], {}, "not reproduced", "^random windows$"),
    "no number": ([replace(entry(), numbers=())], {}, "no number", "^$"),
    "failed": ([entry()], {(OWN, 2): FAILED}, "failed", "^not finite$"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gap_has_a_verdict_and_reasons(case: str) -> None:
    entries, given, verdict, text = CASES[case]
    found = verdicts(entries, given)[0]
    assert found.verdict == verdict
    assert verdict in VERDICTS
    assert re.search(text, found.text), found.text


def test_values_are_those_of_the_two_protocols_if_there_are_two() -> None:
    (both,) = verdicts([entry()], {(OWN, 2): 10.05})
    assert (both.one, both.own) == (12.0, 10.05)
    (own,) = verdicts([entry()], {(OWN, 2): 10.0}, one="c4")
    assert (own.verdict, own.one) == ("agrees", None)
    (one,) = verdicts([entry(not_reproduced="random windows")], {})
    assert (one.one, one.own) == (12.0, None)
    (row,) = rows([entry(unknown=("dtype",))], {"wikitext2": WIKI})
    assert row.own == replace(OWN, dtype=WIKI.dtype)

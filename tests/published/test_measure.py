"""What is measured, each measurement once; what is missing, found before."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from pruning.calibration.sources import TextSource
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.handle import Model
from pruning.published import library, measure
from pruning.published.library import ModelFacts, PrintedSource, Protocol, PublishedMask
from pruning.published.measure import Referee
from pruning.runs.cell import ForwardSettings
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
    return Referee(tmp_path, Model("base", "packaged", "smollm2"), ForwardSettings())


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
    with pytest.raises(InputError, match=f"has {N_BLOCKS} blocks, .* are for {N_BLOCKS + 1}"):
        measure.missing([row(model, Protocol("pydoc"))], referee(tmp_path))

"""What is measured, each measurement once; what is missing, found before."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

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
    assert all(row.steps[-1][1] == row.own for row in rows if row.own is not None)


def test_each_measurement_is_asked_for_once_and_a_model_is_loaded_once_for_each_precision() -> None:
    rows = measure.rows(library.entries(), ONE)
    requests = measure.requests(rows)
    assert len(requests) == len(set(requests)) < sum(len(list(row.requests())) for row in rows)
    loads = [key for key, _ in groupby(requests, key=lambda r: (r.model.name, r.protocol.dtype))]
    assert len(loads) == len(set(loads))


def test_without_steps_only_both_ends_are_measured() -> None:
    entries = library.chosen(["sleb-llama2-7-march13"])
    assert len(measure.requests(measure.rows(entries, ONE, steps=False))) == 4
    assert len(measure.requests(measure.rows(entries, ONE))) > 4


def test_a_stand_in_takes_every_mask_of_its_number_of_blocks_and_leaves_out_the_rest() -> None:
    model, text = ModelFacts("standin", "local", "DIR", 32, 1e5), Protocol("pydoc")
    rows, left_out = measure.standing_in(measure.rows(library.entries(), ONE), model, text)
    assert {entry.model.blocks for entry in left_out} == {18, 30, 48}
    assert len(left_out) + len({row.entry.name for row in rows}) == len(library.entries())
    for request in measure.requests(rows):
        assert request.model == model
        assert request.protocol.source == "pydoc"
        assert request.mask.n_blocks == 32
    assert {request.protocol.window for request in measure.requests(rows)} == {2048, 4096, 8192}


def test_a_local_file_replaces_the_text_and_nothing_else() -> None:
    (row, _) = measure.rows(library.chosen(["evopress-llama2-8"]), ONE)
    moved = measure.on_file(row, "wiki.txt")
    assert moved.one is not None
    assert moved.own is not None
    assert (moved.own.source, moved.own.path, moved.own.name) == ("file", "wiki.txt", None)
    assert (moved.own.window, moved.own.start, moved.own.dtype) == (4096, "none", "float16")
    assert [aspect for aspect, _ in moved.steps] == [aspect for aspect, _ in row.steps if aspect != "text"]


SOURCE = PrintedSource("https://x", "table", "read")


def referee(tmp_path: Path) -> Referee:
    return Referee(tmp_path, Model("base", "packaged", "smollm2"), ForwardSettings())


def row(model: ModelFacts, protocol: Protocol) -> measure.GapRow:
    entry = PublishedMask("e", "paper", model, "m", Mask(model.blocks, (1,)), SOURCE, 1, ())
    return measure.GapRow(entry, "text", None, protocol, None)


def test_models_and_texts_that_are_here_are_found(tmp_path: Path, model_folder: Path) -> None:
    model = ModelFacts("tiny", "local", str(model_folder), N_BLOCKS, 1e4)
    rows = [row(model, Protocol("pydoc")), row(model, Protocol("pydoc", window=64))]
    found = [*measure.models_found(rows, referee(tmp_path)), *measure.texts_found(rows)]
    assert [one.state for one in found] == ["here", "here"], "two protocols on one text are one text"
    measure.check_there(found)


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    model = ModelFacts("big", "hub", "nobody/nothing", 32, 7e9)
    rows = [row(model, Protocol(path="nobody/text")), row(model, Protocol("file", "gone.txt"))]
    found = [*measure.models_found(rows, referee(tmp_path)), *measure.texts_found(rows)]
    with pytest.raises(InputError) as error:
        measure.check_there(found)
    for part in ("nobody/nothing", "nobody/text", "gone.txt", "nothing was measured", "--only ours"):
        assert part in str(error.value)


def test_a_model_with_other_blocks_is_refused(tmp_path: Path, model_folder: Path) -> None:
    model = ModelFacts("tiny", "local", str(model_folder), N_BLOCKS + 1, 1e4)
    with pytest.raises(InputError, match=f"has {N_BLOCKS} blocks, .* are for {N_BLOCKS + 1}"):
        measure.models_found([row(model, Protocol("pydoc"))], referee(tmp_path))

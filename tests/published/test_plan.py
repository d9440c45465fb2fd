"""The plan: a row per number, each measurement once, models and precisions together; stand-ins and local files."""

from __future__ import annotations

from itertools import groupby

from pruning.published import library, measure
from pruning.published.library import ModelFacts, Protocol

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

"""What is measured, each measurement once; what is missing; and what explains a gap."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

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
    GapRow,
    Measurement,
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
    with pytest.raises(InputError, match=f"has {N_BLOCKS} blocks, .* are for {N_BLOCKS + 1}"):
        measure.missing([row(model, Protocol("pydoc"))], referee(tmp_path))


MODEL = ModelFacts("m", "hub", "o/m", 8)
WIKI = Protocol(path="wiki", window=2048)
OWN = Protocol(path="wiki", window=4096, start="none", dtype="float16")


def entry(value: float | None = 10.0, dropped: tuple[int, ...] = (1, 2), **changes: object) -> PublishedMask:
    theirs = Theirs("wikitext2", OWN)
    numbers = () if value is None else (PublishedNumber(value, theirs, SOURCE, "printed_together"),)
    made = PublishedMask(
        f"e{len(dropped)}", "paper", MODEL, "method", Mask(8, dropped), SOURCE, None, numbers
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def values(
    rows: list[GapRow], given: dict[tuple[Protocol, int], float]
) -> dict[Measurement, float | PruningError]:
    """A value for each request, by protocol and number of removed blocks; what is not given is 12."""
    return {r: given.get((r.protocol, len(r.mask.dropped)), 12.0) for r in requests(rows)}


def one_of(entries: list[PublishedMask], given: dict[tuple[Protocol, int], float]) -> Explained:
    """The verdict on the first entry."""
    made = rows(entries, {"wikitext2": WIKI})
    return explained(made, values(made, given))[0]


def test_the_protocol_explains_a_gap_if_the_number_is_found_in_it_and_its_differences_are_listed() -> None:
    found = one_of([entry(10.0)], {(WIKI, 2): 12.0, (OWN, 2): 10.05})
    assert (found.verdict, found.one, found.own) == ("protocol", 12.0, 10.05)
    assert found.text == "window 2048 -> 4096, start window -> none, dtype bfloat16 -> float16"


@pytest.mark.parametrize(
    ("one", "own", "verdict"),
    [(10.0, 10.0, "none"), (10.09, 9.91, "none"), (10.2, 10.0, "protocol"), (10.0, 10.2, "unexplained")],
)
def test_two_values_agree_within_the_tolerance(one: float, own: float, verdict: str) -> None:
    assert one_of([entry(10.0)], {(WIKI, 2): one, (OWN, 2): own}).verdict == verdict


def test_an_unexplained_gap_is_laid_on_the_mask_if_the_dense_model_agrees() -> None:
    mask, dense = entry(10.0), entry(5.0, ())
    found = one_of([mask, dense], {(OWN, 2): 20.0, (OWN, 0): 5.01})
    assert found.verdict == "unexplained"
    assert found.text.startswith("x 2 left. the dense model agrees, so the mask is in doubt")
    worse = one_of([mask, dense], {(OWN, 2): 11.0, (OWN, 0): 5.5})
    assert "+10.00 % left. the dense model differs, too, by +10.00 %" in worse.text


NUMBER = PublishedNumber(12.0, Theirs("wikitext2", OWN), SOURCE, "printed_together")


def test_an_inferred_pairing_is_named() -> None:
    inferred = entry(numbers=(replace(NUMBER, pairing="inferred"),))
    assert "from different sources" in one_of([inferred], {(OWN, 2): 20.0}).text


def test_settings_that_are_not_stated_are_ours_and_are_named() -> None:
    theirs = Theirs("wikitext2", replace(OWN, dtype="float64"), unknown=("dtype",))
    made = entry(numbers=(replace(NUMBER, theirs=theirs),))
    (row,) = rows([made], {"wikitext2": WIKI})
    assert row.own == replace(OWN, dtype=WIKI.dtype)
    assert "not stated, taken as ours: dtype" in one_of([made], {}).text


def test_a_protocol_that_cannot_be_followed_has_a_reason_and_no_measurement() -> None:
    theirs = Theirs("wikitext2", OWN, not_reproduced="random windows")
    found = one_of([entry(numbers=(replace(NUMBER, theirs=theirs),))], {})
    assert (found.verdict, found.one, found.own) == ("not reproduced", 12.0, None)
    assert found.text == "random windows"


def test_other_verdicts() -> None:
    assert one_of([entry(None)], {}).verdict == "no number"
    made = rows([entry(10.0)], {"c4": WIKI})
    (found,) = explained(made, values(made, {(OWN, 2): 10.0}))
    assert (found.verdict, found.one) == ("agrees", None)
    assert {"no number", "agrees"} <= VERDICTS.keys()


def test_a_failed_measurement_is_a_verdict() -> None:
    made = rows([entry(10.0)], {"wikitext2": WIKI})
    given: dict[Measurement, float | PruningError] = dict(values(made, {}))
    given[next(r for r in given if r.protocol == OWN)] = LossError("not finite")
    (found,) = explained(made, given)
    assert (found.verdict, found.text, found.one) == ("failed", "not finite", None)


def test_a_dense_model_that_could_not_be_measured_leaves_the_rest_of_the_table() -> None:
    made = rows([entry(10.0), entry(5.0, ())], {"wikitext2": WIKI})
    given: dict[Measurement, float | PruningError] = dict(values(made, {(OWN, 2): 20.0}))
    given |= {r: LossError("not finite") for r in given if not r.mask.dropped}
    mask, dense = explained(made, given)
    assert (mask.verdict, dense.verdict) == ("unexplained", "failed")
    assert "the dense model could not be measured" in mask.text

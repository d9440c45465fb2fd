"""What explains a gap: the verdict and what is in doubt, from measurements that are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pruning.core.errors import LossError, PruningError
from pruning.core.mask import Mask
from pruning.published.explain import VERDICTS, Explained, explained
from pruning.published.library import (
    ModelFacts,
    PrintedSource,
    Protocol,
    PublishedMask,
    PublishedNumber,
    Theirs,
)
from pruning.published.measure import GapRow, Measurement, requests, rows

MODEL = ModelFacts("m", "hub", "o/m", 8)
SOURCE = PrintedSource("https://x", "table 1", "read")
ONE = Protocol(path="wiki", window=2048)
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
    made = rows(entries, {"wikitext2": ONE})
    return explained(made, values(made, given))[0]


def test_the_protocol_explains_a_gap_if_the_number_is_found_in_it_and_its_differences_are_listed() -> None:
    found = one_of([entry(10.0)], {(ONE, 2): 12.0, (OWN, 2): 10.05})
    assert (found.verdict, found.one, found.own) == ("protocol", 12.0, 10.05)
    assert found.text == "window 2048 -> 4096, start window -> none, dtype bfloat16 -> float16"


@pytest.mark.parametrize(
    ("one", "own", "verdict"),
    [(10.0, 10.0, "none"), (10.09, 9.91, "none"), (10.2, 10.0, "protocol"), (10.0, 10.2, "unexplained")],
)
def test_two_values_agree_within_the_tolerance(one: float, own: float, verdict: str) -> None:
    assert one_of([entry(10.0)], {(ONE, 2): one, (OWN, 2): own}).verdict == verdict


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
    (row,) = rows([made], {"wikitext2": ONE})
    assert row.own == replace(OWN, dtype=ONE.dtype)
    assert "not stated, taken as ours: dtype" in one_of([made], {}).text


def test_a_protocol_that_cannot_be_followed_has_a_reason_and_no_measurement() -> None:
    theirs = Theirs("wikitext2", OWN, not_reproduced="random windows")
    found = one_of([entry(numbers=(replace(NUMBER, theirs=theirs),))], {})
    assert (found.verdict, found.one, found.own) == ("not reproduced", 12.0, None)
    assert found.text == "random windows"


def test_other_verdicts() -> None:
    assert one_of([entry(None)], {}).verdict == "no number"
    made = rows([entry(10.0)], {"c4": ONE})
    (found,) = explained(made, values(made, {(OWN, 2): 10.0}))
    assert (found.verdict, found.one) == ("agrees", None)
    assert {"no number", "agrees"} <= VERDICTS.keys()


def test_a_failed_measurement_is_a_verdict() -> None:
    made = rows([entry(10.0)], {"wikitext2": ONE})
    given: dict[Measurement, float | PruningError] = dict(values(made, {}))
    given[next(r for r in given if r.protocol == OWN)] = LossError("not finite")
    (found,) = explained(made, given)
    assert (found.verdict, found.text, found.one) == ("failed", "not finite", None)


def test_a_dense_model_that_could_not_be_measured_leaves_the_rest_of_the_table() -> None:
    made = rows([entry(10.0), entry(5.0, ())], {"wikitext2": ONE})
    given: dict[Measurement, float | PruningError] = dict(values(made, {(OWN, 2): 20.0}))
    given |= {r: LossError("not finite") for r in given if not r.mask.dropped}
    mask, dense = explained(made, given)
    assert (mask.verdict, dense.verdict) == ("unexplained", "failed")
    assert "the dense model could not be measured" in mask.text

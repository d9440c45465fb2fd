"""Protocols: what counts as a difference, the path from one to another, and the windows that they draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pruning.evaluation.corpora import Corpus
from pruning.published import library
from pruning.published.library import ASPECTS, Protocol
from tests.helpers.tokens import with_bos

ONE = Protocol(path="Salesforce/wikitext", name="wikitext-2-raw-v1")
THEIRS = [number.theirs.protocol for entry in library.entries() for number in entry.numbers]


def test_settings_that_change_nothing_make_no_difference() -> None:
    assert Protocol(window=64, stride=64) == Protocol(window=64)
    assert Protocol(drawn=4, stride=8, start="none", tail=False) == Protocol(drawn=4)
    assert Protocol(harness="a") == Protocol(harness="b")
    assert list(ONE.path_to(replace(ONE, harness="other"))) == []


def test_every_setting_but_the_harness_belongs_to_one_aspect() -> None:
    names = [name for names in ASPECTS.values() for name in names]
    assert sorted([*names, "harness"]) == sorted(Protocol.__dataclass_fields__)


@pytest.mark.parametrize("other", dict.fromkeys(THEIRS), ids=lambda p: f"{p.path or p.source}-{p.window}")
def test_a_path_ends_at_the_other_protocol_and_changes_one_aspect_at_a_time(other: Protocol) -> None:
    here = ONE
    for aspect, protocol in ONE.path_to(other):
        same = replace(protocol, **{name: getattr(here, name) for name in ASPECTS[aspect]})
        assert same == here != protocol
        here = protocol
    assert here == other


def test_a_protocol_draws_what_its_corpus_draws(tokenizer: Any) -> None:
    corpus = Corpus("pydoc", window=64, windows=3, start="none", tail=False)
    protocol = Protocol.of(corpus, "float32")
    assert protocol.corpus == corpus
    assert protocol.samples(tokenizer, "here").rows == corpus.draw(tokenizer, "here").rows
    assert protocol.samples(tokenizer, "here", 2).count == 2


def test_drawn_windows_are_those_of_the_held_out_evaluation(tokenizer: Any) -> None:
    from pruning.evaluation.heldout import Heldout

    tokenizer = with_bos(tokenizer)
    (drawn, *_) = Heldout(samples=4, length=64).data(tokenizer).values()
    protocol = Protocol(source="pydoc", drawn=4, window=64)
    assert protocol.samples(tokenizer, "here").sha256 == drawn.sha256

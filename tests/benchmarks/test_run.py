"""The baselines of `make bench` compute what the engine computes, and its file keeps the rows of other processors."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run as benchmark
from benchmarks.baselines import ONE_WINDOW, Plain
from benchmarks.run import EIGHT, device_name, tiny_llama, tokens
from pruning.core.mask import Mask
from pruning.core.storage import read_json, write_json
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Readout
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model, text_rows

MASKS = [Mask(N_BLOCKS), Mask(N_BLOCKS, (2,)), Mask(N_BLOCKS, (0, 4))]
KL = Readout(
    lambda pruned, dense, _: (dense.whole.exp() * (dense.whole - pruned.whole)).sum(-1), compares=True
)


@pytest.mark.parametrize(("tokens", "readout"), [(2048, LIKELIHOOD), (2048, KL), (ONE_WINDOW, LIKELIHOOD)])
def test_a_baseline_gives_the_values_of_the_engine(tokens: int, readout: Readout) -> None:
    model, rows = language_model(build("llama")), text_rows(5)
    expected, actual = (
        {mask: sums for mask, sums, _ in forward.sums(rows, MASKS, readout)}
        for forward in (Forward(model), Plain(model, tokens))
    )
    for mask in MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-5, abs=1e-5)


def test_a_work_is_timed_and_its_row_replaces_only_that_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny: dict[str, Any] = {"model": partial(tiny_llama, 6), "samples": partial(tokens, 2, 64)}
    monkeypatch.setattr(
        benchmark, "WORKS", [replace(EIGHT, name=name, k=2, **tiny) for name in ("first", "second")]
    )
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fields = {"work": "first", "settings": ""}
    old = [
        {"work": "gone", "settings": "", "device": "A"},
        fields | {"device": device_name()},
        fields | {"device": "A"},
    ]
    write_json(benchmark.RESULTS, old)
    with caplog.at_level(logging.INFO):
        for words in (["second"], ["first"]):
            monkeypatch.setattr("sys.argv", ["run", *words])
            benchmark.main()
    assert re.search(r"\d+\.\d+x .* second$", caplog.text, re.MULTILINE), "no row of the table"
    kept, first, second = read_json(benchmark.RESULTS)
    assert kept == old[2]
    assert (first["work"], second["work"]) == ("first", "second")
    assert first["masks_equal"]
    assert first["ratio"] > 0

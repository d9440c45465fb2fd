"""The baselines of `make bench` compute what the engine computes, and its file keeps the rows of other processors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.baselines import ONE_WINDOW, Plain
from benchmarks.run import WORKS, Work, replaced
from pruning.core.mask import Mask
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


def row(work: Work, device: str, ratio: float = 1.0) -> dict[str, object]:
    return {"work": work.name, "settings": work.settings, "device": device, "ratio": ratio}


def test_a_new_row_replaces_that_of_its_work_and_device_only() -> None:
    first, second, *_ = WORKS
    gone = row(replace(first, name="no work any more"), "EPYC")
    old = [row(second, "EPYC"), gone, row(first, "Xeon")]
    rows = replaced(replaced(old, row(first, "EPYC")), row(second, "EPYC", ratio=2.0))
    assert rows == [row(first, "EPYC"), row(second, "EPYC", ratio=2.0), row(first, "Xeon")]

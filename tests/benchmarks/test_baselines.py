"""The baselines of the benchmark compute what the engine computes."""

from __future__ import annotations

import pytest

from benchmarks.published import Published
from benchmarks.run import Plain
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Readout
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model, text_rows

MASKS = [Mask(N_BLOCKS), Mask(N_BLOCKS, (2,)), Mask(N_BLOCKS, (0, 4))]
KL = Readout(
    lambda pruned, dense, _: (dense.whole.exp() * (dense.whole - pruned.whole)).sum(-1), compares=True
)


@pytest.mark.parametrize(("baseline", "readout"), [(Plain, LIKELIHOOD), (Plain, KL), (Published, LIKELIHOOD)])
def test_a_baseline_gives_the_values_of_the_engine(baseline: type[Forward], readout: Readout) -> None:
    model, rows = language_model(build("llama")), text_rows(5)
    expected = {mask: sums for mask, sums, _ in Forward(model).sums(rows, MASKS, readout)}
    actual = {mask: sums for mask, sums, _ in baseline(model).sums(rows, MASKS, readout)}
    for mask in MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-5, abs=1e-5)

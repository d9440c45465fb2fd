"""The baselines of `make bench` compute what the engine computes, and its file keeps the rows of other processors."""

from __future__ import annotations

import pytest

from benchmarks.baselines import Plain, Published
from benchmarks.run import WORKS, replaced
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Readout
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model, text_rows

FIRST, SECOND = (work.name for work in WORKS[:2])
MASKS = [Mask(N_BLOCKS), Mask(N_BLOCKS, (2,)), Mask(N_BLOCKS, (0, 4))]
KL = Readout(
    lambda pruned, dense, _: (dense.whole.exp() * (dense.whole - pruned.whole)).sum(-1), compares=True
)


@pytest.mark.parametrize(("baseline", "readout"), [(Plain, LIKELIHOOD), (Plain, KL), (Published, LIKELIHOOD)])
def test_a_baseline_gives_the_values_of_the_engine(baseline: type[Forward], readout: Readout) -> None:
    model, rows = language_model(build("llama")), text_rows(5)
    expected, actual = (
        {mask: sums for mask, sums, _ in kind(model).sums(rows, MASKS, readout)}
        for kind in (Forward, baseline)
    )
    for mask in MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-5, abs=1e-5)


def row(work: str, device: str, ratio: float = 1.0) -> dict[str, object]:
    return {"work": work, "device": device, "ratio": ratio}


def test_a_new_row_replaces_that_of_its_work_and_device_only() -> None:
    old = [row(SECOND, "EPYC"), row("no work any more", "EPYC"), row(FIRST, "Xeon")]
    rows = replaced(replaced(old, row(FIRST, "EPYC")), row(SECOND, "EPYC", ratio=2.0))
    assert rows == [row(FIRST, "EPYC"), row(SECOND, "EPYC", ratio=2.0), row(FIRST, "Xeon")]

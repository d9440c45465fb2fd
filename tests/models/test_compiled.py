"""Compiled blocks compute what blocks compute, through one form for all shapes."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks, swapped
from pruning.models.products import compiled
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model, plain, text_rows

# Not ours: torch's own compiler uses parts of torch that it deprecates, when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

MASKS = [Mask(N_BLOCKS), Mask(N_BLOCKS, (1,)), Mask(N_BLOCKS, (0, 3))]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)


@pytest.mark.slow
@needs_compiler
def test_compiled_blocks_give_the_losses_of_plain_passes_and_compile_once_for_all_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pruning.engine.memory.MERGE_OPERATIONS", 0)  # branches run one at a time
    monkeypatch.setattr("pruning.engine.memory.MERGE_TOKENS", 0)
    torch._dynamo.reset()
    module, rows = build("llama"), text_rows(9)
    counters.clear()
    forward = Forward(language_model(module), batch_tokens=30, compile=True)
    together = {mask: sums for mask, sums, _ in forward.loglikelihoods(rows, MASKS)}
    assert len({batch.ids.shape for batch in forward.batches(rows)}) > 1
    forms = counters["stats"]["unique_graphs"]
    assert 1 <= forms <= 3, f"{forms} forms were compiled: one for batches of one row, one for others"
    for mask in MASKS:
        assert together[mask] == pytest.approx(plain(module, mask.dropped, rows), rel=1e-6, abs=2e-5)
        again = Forward(language_model(module), batch_tokens=30, compile=True)
        ((_, alone, _),) = again.loglikelihoods(rows, [mask])
        assert alone == together[mask], "a loss depends on the other masks"
    assert counters["stats"]["unique_graphs"] == forms, "something was compiled twice"
    assert not any("forward" in vars(block) for block in find_blocks(module).modules)


def test_a_block_whose_forward_was_replaced_is_refused() -> None:
    blocks = find_blocks(build("llama"))
    last = blocks.modules[-1]
    with (
        swapped(last, "forward", last.forward),
        pytest.raises(InputError, match=r"models on one device.*forward\.compile=false"),
        compiled(blocks),
    ):
        raise AssertionError("compiled all the same")

"""Masks over sub-layers: every shortcut gives the same as one plain pass for each mask of an altered model."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models.units import find_chain
from tests.engine.test_forward import ROWS, losses
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, PARALLEL, build, zeroed
from tests.helpers.rows import language_model, plain

SEQUENTIAL = [name for name in ARCHITECTURES if name not in PARALLEL]
UNITS = range(2 * N_BLOCKS)
MASKS = [Mask(N_BLOCKS, d, "sublayer") for k in (0, 1, 2) for d in itertools.combinations(UNITS, k)]
SOME = [*MASKS[:13], *MASKS[13::7], Mask(N_BLOCKS, (0, 2, 3, 5, 6, 7, 11), "sublayer")]


@cache
def module_of(name: str) -> Any:
    return build(name) if name in ("mixtral", "qwen3_moe") else build(name).double()


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_shared_prefixes_equal_one_pass_of_an_altered_model(name: str, kind: str) -> None:
    module, rows = module_of(name), ROWS[kind]
    actual = losses(Forward(language_model(module)), rows, SOME)
    tolerance = {"rel": 1e-12} if module.dtype == torch.float64 else {"rel": 1e-6, "abs": 2e-5}
    for mask in SOME[::3]:
        assert actual[mask] == pytest.approx(plain(zeroed(module, mask.dropped), (), rows), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_of_whole_blocks_have_the_losses_of_masks_over_blocks(dtype: torch.dtype) -> None:
    module, rows = build("llama").to(dtype), ROWS["text"]
    forward = Forward(language_model(module))
    blocks = [Mask(N_BLOCKS, d) for k in (0, 1, 2) for d in itertools.combinations(range(N_BLOCKS), k)]
    over_blocks = losses(forward, rows, blocks)
    over_parts = losses(forward, rows, [mask.as_sublayers() for mask in blocks])
    assert all(over_parts[mask.as_sublayers()] == over_blocks[mask] for mask in blocks), "to the last bit"


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_loss_of_a_mask_does_not_depend_on_its_company(data: st.DataObject) -> None:
    module = module_of("gemma3")
    masks = data.draw(st.lists(st.sampled_from(MASKS), min_size=1, max_size=12, unique=True))
    kind, memory = data.draw(st.sampled_from(sorted(ROWS))), data.draw(st.sampled_from([None, 1, 5000]))
    forward = Forward(language_model(module), data.draw(st.sampled_from([20, 60])), memory=memory)
    requests = [losses(forward, ROWS[kind], masks), losses(forward, ROWS[kind], masks[::-1])]
    alone = {mask: losses(Forward(language_model(module), 60), ROWS[kind], [mask])[mask] for mask in masks}
    assert requests[0] == requests[1]
    for mask in masks:
        assert requests[0][mask] == pytest.approx(alone[mask], rel=1e-12)


def test_requests_over_blocks_and_over_sub_layers_do_not_mix_their_states() -> None:
    """Depth 2 is between blocks in one request, and within block 1 in the other."""
    module, rows = module_of("llama"), ROWS["text"]
    forward = Forward(language_model(module))
    blocks = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)]
    parts = [Mask(N_BLOCKS, (i,), "sublayer") for i in UNITS]
    expected = losses(Forward(language_model(module)), rows, parts)
    losses(forward, rows, blocks)
    assert losses(forward, rows, parts) == expected
    assert losses(forward, rows, blocks) == losses(Forward(language_model(module)), rows, blocks)


def test_a_block_forward_is_divided_by_parameters() -> None:
    module, rows = module_of("llama"), ROWS["text"]
    chain = find_chain(module, "sublayer")
    attention, mlp = chain.sizes()[:2]
    forward = Forward(language_model(module))
    losses(forward, rows, [Mask(N_BLOCKS, (2 * N_BLOCKS - 1,), "sublayer")])
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS - mlp / (attention + mlp))
    assert forward.cost.block_forwards_alone == pytest.approx(N_BLOCKS - mlp / (attention + mlp))
    assert forward.n_units("sublayer") == 2 * N_BLOCKS

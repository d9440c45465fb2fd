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
from pruning.engine.compensation import magnitudes
from pruning.engine.forward import Forward
from pruning.models.blocks import enter
from pruning.models.sublayers import find_chain, masked
from tests.engine.test_forward import ROWS, losses
from tests.helpers.architectures import N_BLOCKS, SEQUENTIAL, WIDE, build, zeroed
from tests.helpers.rows import language_model, loglik, plain

UNITS = range(2 * N_BLOCKS)
MASKS = [Mask(N_BLOCKS, d, "sublayer") for k in (0, 1, 2) for d in itertools.combinations(UNITS, k)]
SOME = [*MASKS[:13], *MASKS[13::7], Mask(N_BLOCKS, (0, 2, 3, 5, 6, 7, 11), "sublayer")]


@cache
def module_of(name: str) -> Any:
    return build(name) if name in WIDE else build(name).double()


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


@settings(deadline=None, max_examples=5)
@given(st.data())
def test_the_loss_of_a_mask_does_not_depend_on_its_company(data: st.DataObject) -> None:
    module = module_of("gemma3")
    masks = data.draw(st.lists(st.sampled_from(MASKS), min_size=1, max_size=12, unique=True))
    kind, memory = data.draw(st.sampled_from(sorted(ROWS))), data.draw(st.sampled_from([None, 1, 5000]))
    forward = Forward(language_model(module), data.draw(st.sampled_from([20, 60])), memory=memory)
    requests = [losses(forward, ROWS[kind], masks), losses(forward, ROWS[kind], masks[::-1])]
    apart = Forward(language_model(module), 60)
    alone = {mask: losses(apart, ROWS[kind], [mask])[mask] for mask in masks}
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
    assert forward.cost.block_forwards_alone == pytest.approx(N_BLOCKS - mlp / (attention + mlp), abs=1e-3)
    assert forward.n_units("sublayer") == 2 * N_BLOCKS


def test_offloaded_weights_of_a_skipped_sub_layer_are_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import AlignDevicesHook

    masks = [Mask(N_BLOCKS, (1, 2, 8, unit), "sublayer") for unit in (0, 5, 10)]
    expected = losses(Forward(language_model(build("qwen3"))), ROWS["text"], masks)
    module = cpu_offload(build("qwen3"), execution_device=torch.device("cpu"))
    forward = Forward(language_model(module))
    parts = [part for layer in module.model.layers for part in (layer.self_attn, layer.mlp)]
    unit_of = {id(inner): unit for unit, part in enumerate(parts) for inner in part.modules()}
    find_chain(module, "sublayer")  # runs the whole model
    forward.memory_budget.batches(ROWS["text"])  # may run the whole model, too
    loaded: set[int] = set()
    original = AlignDevicesHook.pre_forward

    def noting(self: Any, part: Any, *args: Any, **kwargs: Any) -> Any:
        if self.offload and id(part) in unit_of:
            loaded.add(unit_of[id(part)])
        return original(self, part, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", noting)
    actual = losses(forward, ROWS["text"], masks)
    assert loaded == set(UNITS) - {1, 2, 8}
    for mask in masks:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6)


def test_a_factor_stands_in_for_each_missing_sub_layer() -> None:
    """Prune&Comp's factors, one for each sub-layer, against a masked model that multiplies its states."""
    module, rows = module_of("gemma3"), ROWS["text"]
    factors = magnitudes(Forward(language_model(module)), rows, "sublayer")
    assert len(factors) == 2 * N_BLOCKS
    masks = [Mask(N_BLOCKS, dropped, "sublayer") for dropped in ((3,), (2, 3), (0, 5, 6, 7))]
    actual = losses(Forward(language_model(module), scales=factors), rows, masks)
    for mask in masks:
        with masked(module, mask, factors):
            expected = [loglik(module, row) for row in rows]
        assert actual[mask] == pytest.approx(expected, rel=1e-9)


def test_a_factor_is_the_mean_growth_of_the_state_at_its_sub_layer() -> None:
    module, rows = module_of("llama"), ROWS["text"][:3]
    chain = find_chain(module, "sublayer")
    ratios = []
    for row in rows:
        with torch.no_grad():
            entry = enter(module, input_ids=torch.tensor([row.input_ids]))
            sizes = [entry.hidden]
            for unit in UNITS:
                sizes.append(chain.run(unit, sizes[-1], entry))
        means = [float(state.abs().mean()) for state in sizes]
        ratios.append([after / before for before, after in itertools.pairwise(means)])
    expected = [sum(column) / len(rows) for column in zip(*ratios, strict=True)]
    assert magnitudes(Forward(language_model(module)), rows, "sublayer") == pytest.approx(expected, rel=1e-9)

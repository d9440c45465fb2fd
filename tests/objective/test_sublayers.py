"""Criteria and gates over sub-layers equal those computed from the states between sub-layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from pruning.core.mask import Mask
from pruning.engine.dense_pass import gate_gradients
from pruning.engine.forward import Forward
from pruning.objective import Objective
from pruning.objective.block_influence import BlockInfluence
from pruning.objective.mutual_information import MutualInformation
from pruning.objective.relative_magnitude import RelativeMagnitude
from pruning.objective.taylor import Taylor
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, samples, scores
from tests.helpers.rows import language_model

UNITS = range(2 * N_BLOCKS)
SINGLES = [Mask(N_BLOCKS, (unit,), "sublayer") for unit in UNITS]


def states(module: Any, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """The states before, between and after all sub-layers, by hooks: h, h + attention, h + attention + MLP, ..."""
    parts: list[torch.Tensor] = []
    handles = [module.model.layers[0].register_forward_pre_hook(lambda _m, args: parts.append(args[0]))]
    for layer in module.model.layers:
        handles += [
            layer.self_attn.register_forward_hook(lambda _m, _a, out: parts.append(out[0])),
            layer.mlp.register_forward_hook(lambda _m, _a, out: parts.append(out)),
        ]
    with torch.no_grad():
        module(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [part[0] for part in torch.stack(parts).cumsum(0)]


def test_block_influence_compares_the_states_around_a_sub_layer() -> None:
    module, data = model(), samples("text")
    found = scores(bound(BlockInfluence(), module, data), SINGLES)
    for sample, row in enumerate(data.rows):
        h = states(module, row.input_ids)
        expected = [1 - float(cosine_similarity(h[u], h[u + 1], dim=-1).mean()) for u in UNITS]
        actual = [found[mask].samples[sample] for mask in SINGLES]
        np.testing.assert_allclose(actual, expected, atol=1e-10)


def test_relative_magnitude_is_that_of_what_a_sub_layer_adds() -> None:
    module, data = model(), samples("text", 2)
    found = scores(bound(RelativeMagnitude(), module, data), SINGLES)
    h = states(module, data.rows[0].input_ids)
    for unit, mask in zip(UNITS, SINGLES, strict=True):
        sizes = (h[unit + 1] - h[unit]).norm(dim=-1) / h[unit + 1].norm(dim=-1)
        assert found[mask].samples[0] == pytest.approx(float(sizes.mean()), rel=1e-9)


def test_taylor_divides_the_score_of_a_block_between_its_parts() -> None:
    module, data = model(dtype=torch.float32), samples("text", 3)
    parts = scores(bound(Taylor(), module, data), SINGLES)
    blocks = scores(bound(Taylor(), module, data), [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)])
    for i in range(N_BLOCKS):
        both = np.add(parts[SINGLES[2 * i]].samples, parts[SINGLES[2 * i + 1]].samples)
        np.testing.assert_allclose(both, blocks[Mask(N_BLOCKS, (i,))].samples, rtol=1e-4)
        assert min(parts[SINGLES[2 * i]].loss, parts[SINGLES[2 * i + 1]].loss) > 0


def test_gates_of_sub_layers_are_derivatives() -> None:
    """Scaling what a sub-layer adds by 1 + e changes the log-likelihood by e times the gate's derivative."""
    module, data = model(), samples("text", 2)
    gradients = gate_gradients(Forward(language_model(module)), data.rows, "sublayer")
    step = 2e-3  # norms compute in float32, so a smaller step would measure rounding
    for unit in (0, 3, 6, 11):
        layer = module.model.layers[unit // 2]
        last = layer.mlp.down_proj if unit % 2 else layer.self_attn.o_proj
        values = []
        for factor in (1 + step, 1 - step):
            kept = last.weight.data.clone()
            last.weight.data = kept * factor
            forward = Forward(language_model(module))
            values += [sums for _, sums, _ in forward.loglikelihoods(data.rows, [Mask(N_BLOCKS)])]
            last.weight.data = kept
        slope = (np.array(values[0]) - np.array(values[1])) / (2 * step)
        np.testing.assert_allclose(gradients[:, unit], slope, rtol=5e-3, atol=2e-4)


@pytest.mark.parametrize("objective", [MutualInformation(), BlockInfluence(by="run")], ids=repr)
def test_the_same_objective_serves_blocks_and_sub_layers(objective: Objective) -> None:
    """Depths of blocks and of sub-layers are different states, so nothing of one may be used for the other."""
    module, data = model(), samples("text", 3)
    blocks = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)]
    together = bound(objective, module, data)
    mixed = scores(together, blocks) | scores(together, SINGLES)
    apart = scores(bound(objective, module, data), blocks) | scores(bound(objective, module, data), SINGLES)
    assert mixed.keys() == apart.keys()
    for mask, score in mixed.items():
        assert score.samples == pytest.approx(apart[mask].samples, abs=1e-12)

"""Criteria equal those computed from the states of a plain forward pass, over blocks and over sub-layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pruning.core.mask import Mask
from pruning.engine.dense_pass import gate_gradients
from pruning.engine.forward import Forward
from pruning.objective import Objective, _criteria
from pruning.objective.angular import Angular, _angle
from pruning.objective.block_influence import BlockInfluence
from pruning.objective.relative_magnitude import RelativeMagnitude
from pruning.objective.taylor import Taylor
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import SINGLES, bound, model, plain_states, samples, scores
from tests.helpers.rows import language_model

ALL = [Mask(N_BLOCKS, d) for k in range(N_BLOCKS + 1) for d in itertools.combinations(range(N_BLOCKS), k)]
PARTS = [Mask(N_BLOCKS, (unit,), "sublayer") for unit in range(2 * N_BLOCKS)]
Distance = Callable[[np.ndarray, np.ndarray], float]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(cosines(a, b)[-1]) / np.pi)


def influence(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - cosines(a, b).mean())


def magnitude(norm: int) -> Distance:
    return lambda a, b: float((np.linalg.norm(b - a, norm, -1) / np.linalg.norm(b, norm, -1)).mean())


PLAIN: list[tuple[Objective, Distance]] = [
    (Angular(), angle),
    (Angular(by="block"), angle),
    (BlockInfluence(), influence),
    (BlockInfluence(by="run"), influence),
    (RelativeMagnitude(), magnitude(2)),
    (RelativeMagnitude(norm=1), magnitude(1)),
]


@pytest.mark.parametrize(("objective", "distance"), PLAIN, ids=[repr(objective) for objective, _ in PLAIN])
@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "text"), ("mistral", "items"), ("gemma3", "text"), ("gpt_neox", "items")]
)
def test_terms_are_sums_of_distances_between_states(
    objective: Any, distance: Distance, name: str, kind: str
) -> None:
    module, data = model(name), samples(kind)
    masks = [*SINGLES[1::2], *(Mask(N_BLOCKS, d) for d in ((0, 1, 2, 3), (1, 2, 5), (0, 3)))]
    results = scores(bound(objective, module, data), masks)
    for number, unit in enumerate(data.units):
        states = [plain_states(module, row) for row in unit]
        for mask in masks:
            pairs = _criteria.runs(mask) if objective.by == "run" else [(i, i + 1) for i in mask.dropped]
            expected = np.mean([sum(distance(state[i], state[j]) for i, j in pairs) for state in states])
            assert results[mask].samples[number] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("objective", "distance"), PLAIN[::2], ids=[repr(o) for o, _ in PLAIN[::2]])
def test_over_sub_layers_the_states_are_those_around_them(objective: Objective, distance: Distance) -> None:
    module, data = model(), samples("text", 3)
    found = scores(bound(objective, module, data), PARTS)
    for sample, row in enumerate(data.rows):
        h = sublayer_states(module, row.input_ids)
        expected = [distance(h[mask.dropped[0]], h[mask.dropped[0] + 1]) for mask in PARTS]
        np.testing.assert_allclose([found[mask].samples[sample] for mask in PARTS], expected, atol=1e-10)


def sublayer_states(module: Any, ids: tuple[int, ...]) -> list[np.ndarray]:
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
    return [part[0].numpy() for part in torch.stack(parts).cumsum(0)]


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 1.0)])
def test_collinear_states_are_handled(sign: float, expected: float) -> None:
    """Rounding can make the absolute value of their cosine greater than 1."""
    state = torch.full((1, 3), 0.1)
    assert _angle(state, sign * 7 * state) == pytest.approx(expected, abs=1e-6)


def test_taylor_divides_the_score_of_a_block_between_its_parts() -> None:
    module, data = model(dtype=torch.float32), samples("text", 3)
    parts = scores(bound(Taylor(), module, data), PARTS)
    blocks = scores(bound(Taylor(), module, data), SINGLES)
    for i in range(N_BLOCKS):
        both = np.add(parts[PARTS[2 * i]].samples, parts[PARTS[2 * i + 1]].samples)
        np.testing.assert_allclose(both, blocks[SINGLES[i]].samples, rtol=1e-4)
        assert min(parts[PARTS[2 * i]].loss, parts[PARTS[2 * i + 1]].loss) > 0


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

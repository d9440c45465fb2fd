"""Maps of removed runs: what they are fitted to, on which samples, and what they gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine import repair as repairs
from pruning.engine.compensation import Linear
from pruning.engine.dense_pass import states
from pruning.engine.forward import Forward
from pruning.engine.repair import Sums, heldout_rows
from pruning.models.output_maps import repaired
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import model, plain_states, samples
from tests.helpers.rows import item_rows, language_model

RIDGE = 1e-6
FIT = Linear(ridge=[RIDGE])
pytestmark = pytest.mark.usefixtures("every_map_is_kept")


def measured(module: Any, mask: Mask, fit: Linear = FIT, data: Samples | None = None, **settings: Any) -> Any:
    forward = Forward(language_model(module), **settings)
    return repairs.measure(forward, data or samples("text", 40), mask, fit)


def outputs(module: Any, row: Any, block: int, part: str) -> np.ndarray:
    """What a part of a block returns, from a hook on a plain forward pass."""
    found: list[torch.Tensor] = []
    target = getattr(module.model.layers[block], part)
    handle = target.register_forward_hook(
        lambda _m, _a, out: found.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        module(input_ids=torch.tensor([row.input_ids]), use_cache=False)
    handle.remove()
    return found[0].reshape(len(row.input_ids), -1).double().numpy()


def plain_map(module: Any, data: Samples, block: int, end: int) -> np.ndarray:
    """The map for blocks `block` + 1 to `end` - 1, from the states of plain forward passes and numpy's solver."""
    states = [plain_states(module, row) for row in data.rows]
    return solved(module, data, block, [s[end] - s[block + 1] for s in states])


def solved(module: Any, data: Samples, block: int, missing: list[np.ndarray]) -> np.ndarray:
    """The map that brings what the MLP of a block adds close to this and what is `missing`, of each row."""
    m = np.concatenate([outputs(module, row, block, "mlp") for row in data.rows])
    r = np.concatenate(missing) + m
    weight = (RIDGE * np.mean(np.sum(m * m, 0))) ** 0.5 * np.eye(m.shape[1])
    return np.linalg.lstsq(np.concatenate([m, weight]), np.concatenate([r, weight]), rcond=None)[0]


@pytest.mark.parametrize("batch_tokens", [30, 4000])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_maps_are_least_squares_on_plain_states(name: str, batch_tokens: int) -> None:
    module, data = model(name), samples("text", 40)
    repair, record = measured(module, Mask(N_BLOCKS, (1, 2, 4)), batch_tokens=batch_tokens)
    assert sorted(repair.maps) == [1, 7]
    expected = torch.from_numpy(plain_map(module, data, 0, 3))
    torch.testing.assert_close(repair.maps[1].double(), expected, rtol=1e-4, atol=1e-5)
    assert record["tokens"] == sum(len(row.input_ids) for row in data.rows)
    assert [run["folded"] for run in record["runs"]] == ["m0", "m3"]


def distances(module: Any, mask: Mask, rows: Any, repair: Any) -> tuple[float, float]:
    """The squared distance, after a mask's last removed unit, to the dense model's states, and the error's unit."""
    forward, units = Forward(language_model(module)), mask.as_sublayers().dropped
    with repaired(module, repair):
        pruned = [hidden for _, hidden in states(forward, rows, "sublayer", units)]
    found = np.zeros(2)
    for (lines, dense), current in zip(states(forward, rows, "sublayer"), pruned, strict=True):
        for line in lines:
            part = line.index, slice(line.length)
            after, before = dense[units[-1] + 1][part].double(), dense[units[0] - 1][part].double()
            found += [
                float((after - current[units[-1] + 1][part]).norm() ** 2),
                float((after - before).norm() ** 2),
            ]
    return found[0], found[1]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("text", ["b1 b2", "m1 a2", "a3", "m4 b5"])
def test_a_repaired_model_is_as_close_as_the_map_says(name: str, text: str) -> None:
    module = model(name, torch.float32 if name == "mixtral" else torch.float64)
    mask, data = Mask.parse(N_BLOCKS, text), samples("text", 60)
    repair, record = measured(module, mask, FIT, data)
    (run,) = record["runs"]
    held = [row for number, row in enumerate(data.rows) if number % 4 == 3]
    plain, unit = distances(module, mask, held, None)
    assert run["error_before"] == pytest.approx(plain / unit, rel=1e-5)
    assert distances(module, mask, data.rows, repair)[0] < distances(module, mask, data.rows, None)[0]


def test_a_map_in_sequence_is_least_squares_on_the_repaired_model() -> None:
    """The second map from states that a model with the first map, folded in and without the first run, has."""
    module, data = model(), samples("text", 40)
    repair, _ = measured(module, Mask(N_BLOCKS, (1, 4)), FIT, data)
    dense = [plain_states(module, row) for row in data.rows]
    with repaired(module, type(repair)({1: repair.maps[1]})):
        module.model.layers[1].forward = lambda hidden_states, *_, **__: hidden_states
        states = [plain_states(module, row) for row in data.rows]
        expected = solved(module, data, 3, [d[5] - s[4] for d, s in zip(dense, states, strict=True)])
    torch.testing.assert_close(repair.maps[7].double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-4)


def test_the_ridge_is_the_best_one_on_every_fourth_sample() -> None:
    module, mask = model(), Mask(N_BLOCKS, (2,))
    data = samples("text", 40)
    ridges = [1e-6, 1e-2, 1.0, 100.0]
    _, chosen = measured(module, mask, Linear(ridge=ridges), data)
    errors = {a: measured(module, mask, Linear(ridge=[a]), data)[1]["runs"][0]["error_after"] for a in ridges}
    (run,) = chosen["runs"]
    assert (run["ridge"], run["error_after"]) == min(errors.items(), key=lambda pair: pair[1])
    assert len(set(errors.values())) == len(ridges)


def test_a_run_at_the_beginning_has_no_map(caplog: pytest.LogCaptureFixture) -> None:
    repair, record = measured(model(), Mask(N_BLOCKS, (0, 1, 4)))
    assert list(repair.maps) == [7]
    assert record["runs"][0] == {"removed": ["b0", "b1"], "folded": None}
    assert "b0 b1" in caplog.text


def test_a_diagonal_takes_the_place_of_a_matrix_where_that_cannot_be_folded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    repair, record = measured(model("gemma3"), Mask(N_BLOCKS, (2,)))
    (run,) = record["runs"]
    assert (record["form"], run["form"], repair.maps[3].dim()) == ("linear", "diagonal", 1)
    assert "normalises" in run["reason"]
    assert "m1" in caplog.text


def test_the_choices_of_an_item_are_held_out_together() -> None:
    data = Samples("items", "items", item_rows(9), 0)
    held = heldout_rows(data, 4)
    assert {data.rows[row].item for row in held} == {3, 7}
    assert len(held) == sum(len(unit) for number, unit in enumerate(data.units) if number in (3, 7))
    assert heldout_rows(samples("text", 2), 4) == {1}
    with pytest.raises(InputError, match=r"calibration\.samples"):
        repairs.check(model(), "block", samples("text", 1))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("ridge", []), ("ridge", [0.0]), ("heldout", 1)],
)
def test_impossible_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"compensation.{setting}"):
        Linear(**{setting: value})


# Maps from sums over tokens.

WIDTH = 7
M, R = torch.randn(2, 40, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sums_of(diagonal: bool, m: torch.Tensor = M, r: torch.Tensor = R) -> Sums:
    shape = (WIDTH,) if diagonal else (WIDTH, WIDTH)
    found = Sums(*torch.zeros(2, *shape, dtype=torch.float64))
    for inputs, targets in zip(m.split(9), r.split(9), strict=True):
        found.add(inputs, targets)
    return found


@pytest.mark.parametrize("ridge", [1e-12, 0.1, 10.0])
def test_maps_are_solutions_of_lstsq(ridge: float) -> None:
    """Ridge regression is least squares with a row sqrt(a) e_i, whose target is the same row, per dimension."""
    penalty = (ridge * (M * M).sum(0).mean()) ** 0.5
    weight = penalty * torch.eye(WIDTH, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([M, weight]), torch.cat([R, weight])).solution
    torch.testing.assert_close(sums_of(False).solve(ridge), expected, rtol=1e-9, atol=1e-9)
    factors = []
    for m, r in zip(M.T, R.T, strict=True):
        inputs, targets = torch.cat([m, penalty[None]]), torch.cat([r, penalty[None]])
        factors.append(float(torch.linalg.lstsq(inputs[:, None], targets[:, None]).solution))
    assert sums_of(True).solve(ridge).tolist() == pytest.approx(factors, rel=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_errors_are_those_over_the_tokens_and_sums_add_up(diagonal: bool) -> None:
    found = sums_of(diagonal, M[:13], R[:13]) + sums_of(diagonal, M[13:], R[13:])
    change = sums_of(diagonal).solve(0.1)
    torch.testing.assert_close(found.solve(0.1), change)
    mapped = M * change if diagonal else M @ change
    assert found.error(change) == pytest.approx(float(((mapped - R) ** 2).sum() / (R**2).sum()))
    assert found.error(None) == pytest.approx(float(((M - R) ** 2).sum() / (R**2).sum()))

"""Maps from sums are least-squares solutions, and errors from sums are those over the tokens."""

from __future__ import annotations

import pytest
import torch

from pruning.engine.repair import Sums

WIDTH, ROWS = 7, 40
GENERATOR = torch.Generator().manual_seed(0)
M, R = (torch.randn(ROWS, WIDTH, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def sums(diagonal: bool) -> Sums:
    found = Sums.empty(WIDTH, diagonal)
    for start in range(0, ROWS, 9):  # in batches
        found.add(M[start : start + 9], R[start : start + 9])
    assert found.tokens == ROWS
    return found


@pytest.mark.parametrize("toward", [0.0, 1.0])
@pytest.mark.parametrize("ridge", [1e-12, 0.1, 10.0])
def test_a_matrix_is_the_solution_of_lstsq(ridge: float, toward: float) -> None:
    """Ridge regression is least squares with a row sqrt(a) e_i, whose target is sqrt(a) P e_i, per dimension."""
    weight = (ridge * (M.T @ M).diagonal().mean()) ** 0.5 * torch.eye(WIDTH, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([M, weight]), torch.cat([R, toward * weight])).solution
    torch.testing.assert_close(sums(False).solve(ridge, toward), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("toward", [0.0, 1.0])
@pytest.mark.parametrize("ridge", [1e-12, 0.1, 10.0])
def test_a_diagonal_is_the_solution_of_one_lstsq_for_each_dimension(ridge: float, toward: float) -> None:
    weight = (ridge * (M * M).sum(0).mean()) ** 0.5
    expected = []
    for m, r in zip(M.T, R.T, strict=True):
        inputs, targets = torch.cat([m, weight[None]]), torch.cat([r, toward * weight[None]])
        expected.append(float(torch.linalg.lstsq(inputs[:, None], targets[:, None]).solution))
    assert sums(True).solve(ridge, toward).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_errors_are_those_over_the_tokens(diagonal: bool) -> None:
    change = sums(diagonal).solve(0.1, 1.0)
    mapped = M * change if diagonal else M @ change
    expected = float(((mapped - R) ** 2).sum() / (R**2).sum())
    assert sums(diagonal).error(change) == pytest.approx(expected)
    assert sums(diagonal).error(1.0) == pytest.approx(float(((M - R) ** 2).sum() / (R**2).sum()))


def test_sums_add_up() -> None:
    first, second = Sums.empty(WIDTH, False), Sums.empty(WIDTH, False)
    first.add(M[:13], R[:13])
    second.add(M[13:], R[13:])
    torch.testing.assert_close((first + second).solve(0.1, 1.0), sums(False).solve(0.1, 1.0))


def test_inputs_that_are_all_zero_give_the_map_that_is_known() -> None:
    empty = Sums.empty(WIDTH, True)
    empty.add(torch.zeros_like(M), R)
    assert torch.equal(empty.solve(0.1, 1.0), torch.ones(WIDTH, dtype=torch.float64))

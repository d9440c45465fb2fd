"""Plausible true components of one stratum: those under which the observed sums of squares would not be surprising.

Generalised intervals (Weerahandi 1993) take, for each resample, the true value that would have given the observed
sum of squares if nature had drawn as the resample did. Here the drawing is that of `bootstrap.py`.

Noise (draw and residual). If the expected sum of squares is E, a study observes E times a random factor. A resample
shows such a factor: its own sum of squares divided by the mean of all resamples. So E = observed / factor. With
normal draws this is the exact chi-square interval. With few draws it reaches far up: this is the widening.

Other sources. A resample explains fixed + linear + quadratic: the means over draws alone, products of means and
noise, and noise alone. If the true noise is lambda^2 times the estimated noise, then the true part of a source is

    observed - lambda linear - lambda^2 (quadratic - its mean) - lambda^2 (the expected noise).

If the source has no effect, this is at most 0 as often as an F test against the noise does not reject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .coordinates import Matrix
from .solver import Solver


@dataclass(frozen=True)
class DrawnSquares:
    """Sums of squares of resamples: of the panel alone (names,), and of its noise (resamples, names)."""

    fixed: Matrix
    linear: Matrix
    quadratic: Matrix

    @property
    def whole(self) -> Matrix:
        """The sums of squares (resamples, names)."""
        return np.asarray(self.fixed + self.linear + self.quadratic)


@dataclass(frozen=True)
class PlausibleComponents:
    """The components of a stratum, in the order of EVERY.

    `estimate` (sources,) is unbiased. `plausible` (resamples, sources) are plausible true values. `drawn` (resamples,
    sources) are the estimates from the resamples, whose own true components are `centre` (sources,).
    """

    estimate: Matrix
    plausible: Matrix
    drawn: Matrix
    centre: Matrix


def widened(observed: Matrix, drawn: Matrix) -> NDArray[np.float64]:
    """Plausible expected sums of squares (resamples, names): observed / (drawn / mean drawn); 0 if all are 0."""
    factor = drawn / np.where(drawn.mean(axis=0) > 0, drawn.mean(axis=0), 1.0)
    return np.asarray(np.where(factor > 0, observed / np.where(factor > 0, factor, 1.0), 0.0))


def plausible(solver: Solver, observed: Matrix, items: Matrix, drawn: DrawnSquares) -> PlausibleComponents:
    """Components from observed sums of squares (names,), of which `items` (names,) is the noise of items."""
    noise = solver.noise
    estimate = solver.components(observed - items)
    between_noise = solver.coefficients[np.ix_(noise, noise)]
    right = widened(observed[noise], drawn.whole[:, noise]) - items[noise]
    true = np.zeros((len(right), len(noise)))
    true[:, noise] = np.linalg.solve(between_noise, right.T).T
    expected, likely = (solver.expected_noise(c) + items for c in (estimate, true))
    square = np.maximum(np.where(expected > 0, likely / np.where(expected > 0, expected, 1.0), 0.0), 0.0)
    moved = np.sqrt(square) * drawn.linear + square * (drawn.quadratic - drawn.quadratic.mean(axis=0))
    left = observed - moved - square * expected
    own = np.diag(solver.coefficients)
    true[:, ~noise] = (left / own)[:, ~noise]
    centre = drawn.fixed / own
    centre[noise] = np.linalg.solve(between_noise, (drawn.whole.mean(axis=0) - items)[noise])
    repeated = solver.components(drawn.whole - items)
    return PlausibleComponents(*(solver.spread_out(c) for c in (estimate, true, repeated, centre)))

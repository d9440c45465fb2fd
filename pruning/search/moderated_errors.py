"""Standard errors of many candidates, moderated by each other.

The variance of few terms is itself known badly, so the quantile of Student's t is large. But the candidates'
variances are alike, so they say something about each other. Smyth (2004, doi:10.2202/1544-6115.1027, sections 3 and
6) takes the true variances as draws from a scaled inverse chi-squared distribution, with d0 degrees of freedom
around s0^2. He fits d0 and s0^2 to the observed variances s^2, each with d degrees of freedom, and replaces

    s^2  by  (d0 s0^2 + d s^2) / (d0 + d)        d  by  d0 + d

If the observed variances differ no more than those of equal true variances would, d0 is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FEWEST = 5  # candidates from which a distribution of variances is fitted
LIMITS = (1e-8, 1e8)  # of the number whose trigamma is given


def moderated(errors: Sequence[float], freedoms: Sequence[float]) -> list[tuple[float, float]]:
    """The moderated standard error of each candidate, and its degrees of freedom.

    Errors that are 0, not finite or unknown (0 degrees of freedom) stay as they are, and so do all if there are fewer
    than `FEWEST` others.
    """
    given = list(zip(errors, freedoms, strict=True))
    known = [(error**2, free) for error, free in given if _known(error, free)]
    if len(known) < FEWEST:
        return given
    variance, freedom = _prior(*np.array(known).T)
    return [
        _combined(error, free, variance, freedom) if _known(error, free) else (error, free)
        for error, free in given
    ]


def _known(error: float, freedom: float) -> bool:
    return freedom > 0 and 0 < error < math.inf


def _combined(error: float, free: float, variance: float, freedom: float) -> tuple[float, float]:
    if math.isinf(freedom):
        return math.sqrt(variance), math.inf
    return math.sqrt((freedom * variance + free * error**2) / (freedom + free)), freedom + free


def _prior(variances: np.ndarray, freedoms: np.ndarray) -> tuple[float, float]:
    """s0^2 and d0, from the mean and the variance of the logarithms (Smyth 2004, section 6.2)."""
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedoms / 2).mean())
    if excess <= float(polygamma(1, LIMITS[1])):
        return float(np.exp(logs.mean())), math.inf
    half = brentq(lambda x: float(polygamma(1, x)) - min(excess, float(polygamma(1, LIMITS[0]))), *LIMITS)
    return float(np.exp(logs.mean() + digamma(half) - math.log(half))), 2 * half

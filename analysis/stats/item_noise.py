"""The noise of an accuracy: other items of the same kind would give every mask another accuracy.

Masks are measured on the same items, so their noise is correlated, and equal masks have the same noise. The answers
to each item give the whole covariance: with x_t (cells,) the contribution of item t to the accuracies, and n items of
a task, it is the sum over tasks and items of n / (n - 1) (x_t - mean) (x_t - mean)'. Columns whose products have this
sum are the noise of the items.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .coordinates import Matrix

COLUMNS = 64  # random combinations of items that resamples use instead of all items


def item_noise(answers: Mapping[str, Matrix]) -> Matrix:
    """The noise E (cells, items) of mean accuracies in percent; their covariance is E E'.

    `answers` maps each task to how right each cell's mask answered each item (cells, items), from 0 to 1. The
    accuracy is the mean over tasks of the mean over items. Tasks of one item say nothing about noise and are left
    out.
    """
    columns = []
    for of_task in answers.values():
        n = of_task.shape[1]
        if n > 1:
            deviation = of_task - of_task.mean(axis=1, keepdims=True)
            columns.append(100 * deviation / (len(answers) * n) * np.sqrt(n / (n - 1)))
    return np.hstack(columns) if columns else np.zeros((len(next(iter(answers.values()))), 0))


def compressed(noise: Matrix, seed: int) -> Matrix:
    """Fewer columns with about the same covariance: random combinations of the items (cells, at most COLUMNS)."""
    if noise.shape[1] <= COLUMNS:
        return noise
    mixed = np.random.default_rng([seed, noise.shape[1]]).normal(size=(noise.shape[1], COLUMNS))
    return np.asarray(noise @ mixed / np.sqrt(COLUMNS))

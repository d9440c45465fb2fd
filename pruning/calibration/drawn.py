"""Which windows or items of a pool a seed draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.core.errors import InputError

ORDER = 0  # the seed of the order in which disjoint draws take the pool


@dataclass(frozen=True)
class Drawn:
    """Draws `samples` of a pool with `seed`. `prefix` is the settings group in error messages.

    If `disjoint`, a fixed random order of the pool is cut into groups of `samples`, and the seed is the number of a
    group: draws with different seeds have nothing in common.
    """

    samples: int
    seed: int
    disjoint: bool = False
    prefix: str = "calibration"

    def of(self, size: int, pool: str) -> list[int]:
        """The chosen indices of a pool of at least `samples`, in order.

        Raises InputError, which quotes the description `pool`, if the pool has no group of this number.
        """
        if not self.disjoint:
            rng = np.random.default_rng(self.seed)
            return sorted(rng.choice(size, size=self.samples, replace=False).tolist())
        if self.seed >= (groups := size // self.samples):
            raise InputError(
                f"{self.prefix}.seed={self.seed} is too high for {self.prefix}.disjoint=true: {pool}, enough for "
                f"{groups} disjoint draws of {self.samples}, whose seeds are 0 to {groups - 1}. Choose one of these, "
                f"lower {self.prefix}.samples, or set {self.prefix}.disjoint=false."
            )
        order = np.random.default_rng(ORDER).permutation(size)
        return sorted(order[self.seed * self.samples :][: self.samples].tolist())


def check_seed(seed: int, prefix: str = "calibration") -> None:
    """Raise InputError if the seed is negative, because numpy's random generator accepts no negative seed."""
    if seed < 0:
        raise InputError(f"{prefix}.seed={seed} is negative: choose 0 or more.")

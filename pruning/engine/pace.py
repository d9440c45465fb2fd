"""How many masks are scored before their losses are journaled: about as many as the user's patience allows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

FIRST = 4  # masks in the first group, after which the time of a mask is known


@dataclass
class Pace:
    """Group sizes such that a group takes about `patience` seconds.

    A group of n masks takes about a + b * n seconds. Reading weights from a disk, for example, takes the same time
    for any number of masks. If a alone exceeds the patience, at most half of a group's time is a.
    """

    patience: float
    _seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=8))

    def size(self) -> int:
        """The number of masks in the next group."""
        if not self._seen:
            return FIRST
        fixed, each = self._fitted()
        return max(1, round(max(self.patience - fixed, fixed) / each))

    def note(self, masks: int, seconds: float) -> None:
        """Note how long a group took."""
        self._seen.append((masks, max(seconds, 1e-9)))

    def _fitted(self) -> tuple[float, float]:
        """The seconds per group and per mask, by least squares over the last groups; neither is negative."""
        count = len(self._seen)
        mean_masks = sum(masks for masks, _ in self._seen) / count
        mean_seconds = sum(seconds for _, seconds in self._seen) / count
        spread = sum((masks - mean_masks) ** 2 for masks, _ in self._seen)
        if spread:
            each = (
                sum((masks - mean_masks) * (seconds - mean_seconds) for masks, seconds in self._seen) / spread
            )
            fixed = mean_seconds - each * mean_masks
            if each > 0 and fixed > 0:
                return fixed, each
        return 0.0, mean_seconds / mean_masks

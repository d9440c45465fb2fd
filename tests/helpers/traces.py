"""Lines of a trace for tests, and a budget over sub-layers."""

from __future__ import annotations

import numpy as np

BUDGET = {"cost": "parameters", "asked": 0.5, "removed": 0.5, "costs": [1, 3, 1, 3], "least": 4, "most": 4}


def score(dropped: list[int], losses: list[float], seconds: float = 1.0) -> dict[str, object]:
    """The line of a mask's score; `losses` are those of the samples."""
    return {"dropped": dropped, "loss": float(np.mean(losses)), "samples": losses, "seconds": seconds}

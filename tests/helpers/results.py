"""A result in the form that cells write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIMES = {"started": "2026-05-01T10:00:00+00:00", "ended": "2026-05-01T10:01:00+00:00"}


def a_result(**changes: Any) -> dict[str, Any]:
    """The result of a finished greedy search, with `changes`: a mapping updates a part, and None removes one."""
    result: dict[str, Any] = {
        "cell": "smollm2-perplexity-greedy-k2-s0-0123456789ab",
        "status": "done",
        "error": None,
        "config": {
            "model": {"name": "smollm2"},
            "objective": {"class": "Perplexity"},
            "calibration": {"source": "pydoc", "samples": 16, "length": 128, "seed": 0},
            "algo": {"class": "Greedy"},
            **{"ratio": None, "k": 2, "unit": "block", "budget": "parameters"},
            "seed": 0,
            "study": "small",
            "protect": {"first": 0, "last": 0},
        },
        "model": {"name": "smollm2", "n_blocks": 30},
        "mask": {"n_blocks": 30, "dropped": [1, 2]},
        "calibration": {
            "objective": "perplexity",
            **{"source": "pydoc", "samples": 16, "seed": 0, "length": 128, "sha256": "0" * 64},
            **{"loss": 1.0, "dense_loss": 0.5, "standard_error": 0.1},
        },
        "search": {
            **{"algo": "greedy", "k": 2, "ratio": 2 / 30, "stopped": "k blocks were removed", "seconds": 9.0},
            **{"evaluations_asked": 60, "evaluations_paid": 60, "evaluations_shared": 0},
            **{"block_forwards": 900.0, "block_forwards_alone": 900.0, "peak_memory": 0},
        },
        "margins": {"compared": 0, "runner_up": None, "tied": 0, "ties": []},
        "evaluation": {"dense": {"ppl/heldout": 17.0}, "pruned": {"ppl/heldout": 18.0}, "data": {}},
        "environment": {"commit": "0123456789ab", "device": "cpu", "packages": {"torch": "2.9.0"}, **_TIMES},
    }
    for name, value in changes.items():
        mapped = isinstance(value, Mapping) and isinstance(result.get(name), dict)
        result[name] = result[name] | value if mapped else value
    return {name: value for name, value in result.items() if value is not None or name == "error"}

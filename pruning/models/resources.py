"""What the jobs of a model ask a cluster for. It belongs to the model, and never to the identity of a cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pruning.core.errors import InputError

LEAST = {"gpus_per_rank": 0, "memory_gb": 0.1}


@dataclass(unsafe_hash=True)  # OmegaConf makes a frozen one read-only
class Resources:
    """Of each of `nodes` machines: `ranks` processes with `gpus_per_rank` GPUs and `cpus_per_rank` cores each.

    A rank holds the whole model, on one GPU or spread over its own, and takes its share of the samples. `memory_gb`
    is a node's, `minutes` the time limit; a cell that reaches it goes on from its files.
    """

    nodes: int = 1
    ranks: int = 1
    gpus_per_rank: int = 1
    cpus_per_rank: int = 4
    memory_gb: float = 32
    minutes: int = 240

    @property
    def gpus(self) -> int:
        """GPUs of a node."""
        return self.ranks * self.gpus_per_rank

    def check(self, model: str) -> None:
        """Raise InputError for numbers that no machine has."""
        for name, value in asdict(self).items():
            least = LEAST.get(name, 1)
            if value < least:
                raise InputError(
                    f"model.resources.{name}={value} of {model} is too few: choose {least} or more."
                )


def resources(settings: Any) -> Resources:
    """Resources from a mapping, as configurations hold them, or as they are."""
    return settings if isinstance(settings, Resources) else Resources(**settings)

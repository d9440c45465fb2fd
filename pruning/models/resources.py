"""What a model's jobs request from a cluster. These settings of the model are not part of a cell's key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pruning.core.errors import InputError

LEAST = {"gpus_per_rank": 0, "memory_gb": 0.1}


@dataclass(unsafe_hash=True)  # not frozen, since OmegaConf makes frozen dataclasses read-only
class Resources:
    """A job runs `ranks` processes on each of `nodes` machines.

    Each process, called a rank, has `gpus_per_rank` GPUs and `cpus_per_rank` cores. Each rank holds the whole
    model, on one GPU or spread over several, and evaluates its share of the samples. `memory_gb` is per node.
    `minutes` is the time limit. If a cell reaches this limit, the next run continues from the cell's files.
    """

    nodes: int = 1
    ranks: int = 1
    gpus_per_rank: int = 1
    cpus_per_rank: int = 4
    memory_gb: float = 32
    minutes: int = 240

    @property
    def gpus(self) -> int:
        """The number of GPUs per node."""
        return self.ranks * self.gpus_per_rank

    def check(self, model: str) -> None:
        """Raise InputError if a number is below its minimum."""
        for name, value in asdict(self).items():
            least = LEAST.get(name, 1)
            if value < least:
                raise InputError(
                    f"model.resources.{name}={value} of {model} is too few: choose {least} or more."
                )


def resources(settings: Any) -> Resources:
    """Make `Resources` from a mapping, as in configurations. An instance of `Resources` is returned unchanged."""
    return settings if isinstance(settings, Resources) else Resources(**settings)

"""Hydra's sweeper for the grid: it leaves the composition of the jobs to the grid launcher.

Hydra's own sweeper composes every job to see whether it can, and the launcher then composes it again. The grid
launcher composes all jobs before it runs any, so it finds the same errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """The settings of Hydra's sweeper."""

    _target_: str = "hydra_plugins.grid_launcher.sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="grid")


class GridSweeper(BasicSweeper):
    """Split the arguments into jobs, as Hydra's sweeper does, and pass them to the launcher."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; replace a link in place of Hydra's copy of the settings, which Hydra would follow."""
        assert self.config is not None
        copy = Path(self.config.hydra.sweep.dir) / "multirun.yaml"
        if copy.is_symlink():
            copy.unlink()
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing to do: the launcher composes every job first."""

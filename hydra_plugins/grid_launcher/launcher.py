"""Hydra's plugins for the grid: a sweeper that splits the arguments into jobs, and a launcher that runs them all.

Hydra's own sweeper composes every job to see whether it can; its own launcher then composes and runs one job after
the other. Here the launcher composes all jobs first, so even a mistake in the last one stops the command before the
first cell starts. Then it passes them to the study, which skips finished cells and goes on after a failed cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.grid_launcher.composer import Composer


@dataclass
class GridLauncherConf:
    """The launcher has no settings."""

    _target_: str = "hydra_plugins.grid_launcher.launcher.GridLauncher"


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """The settings of Hydra's sweeper."""

    _target_: str = "hydra_plugins.grid_launcher.launcher.GridSweeper"


ConfigStore.instance().store(group="hydra/launcher", name="grid", node=GridLauncherConf, provider="grid")
ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="grid")


class GridLauncher(Launcher):
    """Compose every cell, then run the study in this process."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs to compose cells. The task function is not used."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all cells. Exits with the study's status if a cell is not done."""
        from pruning.study.command import execute

        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        composer = Composer(self.hydra_context.config_loader, self.config)
        numbered = enumerate(job_overrides, start=initial_job_idx)
        execute([composer.compose(number, overrides) for number, overrides in numbered])
        return [JobReturn(overrides=list(o), status=JobStatus.COMPLETED) for o in job_overrides]


class GridSweeper(BasicSweeper):
    """Split the arguments into jobs, as Hydra's sweeper does, and pass them to the launcher."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; remove a link in place of Hydra's copy of the settings, which Hydra would follow."""
        assert self.config is not None
        copy = Path(self.config.hydra.sweep.dir) / "multirun.yaml"
        if copy.is_symlink():
            copy.unlink()
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing to do: the launcher composes every job first."""

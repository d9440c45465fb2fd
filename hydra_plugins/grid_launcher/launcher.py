"""The Hydra launcher of the grid: it passes all cells of a sweep to the study at once.

Hydra's default launcher composes and runs one job after the other. Here, all cells are composed first, so even a
mistake in the last cell stops the command before the first cell starts. The study also skips finished cells and
goes on after a failed cell.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.grid_launcher.composer import Composer

log = logging.getLogger(__name__)


@dataclass
class GridLauncherConf:
    """The launcher has no settings yet."""

    _target_: str = "hydra_plugins.grid_launcher.launcher.GridLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="grid", node=GridLauncherConf, provider="grid")


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
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=None)
            for overrides in job_overrides
        ]

"""Hydra's plugin for the grid: a sweeper that composes all jobs before the first one runs.

So even a mistake in the last job stops the command before the first cell starts.

Many jobs choose the same options and differ only in values, such as `seed=3`, which Hydra sets last. So
Hydra composes each choice of options once, and this sweeper sets the values on copies. If a job has another
kind of override, or if a value is refused, Hydra composes the whole job, so that the error is Hydra's own.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """The settings of Hydra's basic sweeper, for the sweeper below."""

    _target_: str = "hydra_plugins.grid_launcher.sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="grid")


class GridSweeper(BasicSweeper):
    """Split the arguments into jobs, as Hydra's sweeper does, compose all jobs, and run them as a study."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all cells as one study or, if `hydra/launcher=` chooses another launcher, as single jobs."""
        from pruning.config.app import add_hub_models
        from pruning.study.command import execute

        assert self.config is not None
        assert self.hydra_context is not None
        if not self.config.hydra.launcher._target_.endswith("BasicLauncher"):
            return super().sweep(arguments)
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(
            [*self._parse_config(), *arguments]
        )
        (jobs,) = self.split_arguments(overrides, None)
        add_hub_models([word for job in jobs for word in job])
        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        composer = Composer(loader, self.config)
        execute([composer.compose(words) for words in jobs])
        return None


# A cell's configuration without its part `hydra`, and the chosen option of each group.
Composed: TypeAlias = tuple[DictConfig, dict[str, Any]]


class Composer:
    """Compose the jobs of the sweep that `master` configures."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._composed: dict[tuple[str, ...], Composed] = {}
        hydra: Any = OmegaConf.to_container(master.hydra.overrides.hydra)
        self._groups = loader.get_group_options("", ObjectType.GROUP, master.hydra.job.config_name, hydra)

    def compose(self, words: Sequence[str]) -> Composed:
        """The configuration of a job with the overrides `words`. Raises Hydra's errors."""
        if not (values := self._values(words)):
            return self.compose_alone(words)
        changed = {value.input_line for value in values}
        options = tuple(word for word in words if word not in changed)
        if options not in self._composed:
            self._composed[options] = self.compose_alone(options)
        shared, choices = self._composed[options]
        config = copy.deepcopy(shared)
        try:
            for value in values:
                OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
        except OmegaConfBaseException:
            return self.compose_alone(words)
        return config, dict(choices)

    def compose_alone(self, words: Sequence[str]) -> Composed:
        """The configuration of a job as Hydra itself composes it."""
        sweep = self._loader.load_sweep_config(self._master, list(words))
        HydraConfig.instance().set_config(sweep)
        choices = dict(sweep.hydra.runtime.choices)
        cell = copy.deepcopy(sweep)
        with read_write(cell), open_dict(cell):
            del cell["hydra"]
        return cell, choices

    def _values(self, words: Sequence[str]) -> list[Override]:
        """The overrides in `words` that set a value; empty if any word neither sets a value nor chooses an option."""
        values = []
        for override in map(_parsed, words):
            option = override.key_or_group in self._groups or "/" in override.key_or_group
            plain = override.type == OverrideType.CHANGE and override.package is None
            if not plain or (option and isinstance(override.value(), dict)):
                return []
            if not option:
                values.append(override)
        return values


@cache
def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)

"""The command line: `python launch.py` in a checkout, `depth-pruning` once installed.

Modules that are slow to import are imported after Hydra has composed the configuration, so that `--help` stays fast.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pruning.config.compose import check_choices
from pruning.config.groups import CONF
from pruning.core.errors import InputError
from pruning.core.threads import let_threads_wait
from pruning.hydra_app.registry import register


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _launch(composed: DictConfig) -> None:
    from pruning.study.command import execute

    execute([(composed, HydraConfig.get().runtime.choices)])


def main() -> None:
    """Run one cell or, with `-m`, a grid. For an unknown option, prints a plain message and exits with status 1."""
    let_threads_wait()
    try:
        register()
        check_choices(sys.argv[1:])
    except InputError as error:
        raise SystemExit(f"{error}") from None
    _launch()

"""Run one cell, or with -m a grid of cells.

python launch.py                                                 one cell on the defaults
python launch.py -m algo=one_shot,greedy objective=perplexity,margin ratio=0.1,0.2
python launch.py --help                                          all groups, options and settings
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pruning.config import compose, groups
from pruning.core.errors import InputError
from pruning.hydra_app import registry


@hydra.main(version_base="1.3", config_path=str(groups.CONF), config_name="config")
def _launch(composed: DictConfig) -> None:
    from pruning.study.command import execute

    execute([(composed, HydraConfig.get().runtime.choices)])


def main() -> None:
    """The entry point of `python launch.py` and of the `depth-pruning` command."""
    try:
        registry.register()
        compose.check_choices(sys.argv[1:])
    except InputError as error:
        raise SystemExit(f"{error}") from None
    _launch()


if __name__ == "__main__":
    main()

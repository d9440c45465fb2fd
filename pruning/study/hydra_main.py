"""Start Hydra for a command, and give its errors in this project's words."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pruning.config.choices import check_choices
from pruning.config.groups import CONF
from pruning.config.hydra_errors import explained
from pruning.config.words import check_words, ordered
from pruning.hydra_app.registry import register

RAISE = "HYDRA_FULL_ERROR"  # if this variable is set, Hydra raises its errors instead of printing them


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _launch(composed: DictConfig) -> None:
    from pruning.study.command import execute

    execute([(composed, HydraConfig.get().runtime.choices)])


def launch() -> None:
    """Run the command in `sys.argv`. Raises InputError if Hydra cannot read it or a setting does not exist."""
    sys.argv[1:] = words = ordered(sys.argv[1:])
    register()
    check_words(words)
    check_choices(words)
    if RAISE in os.environ:  # the user wants Hydra's own words
        _launch()
        return
    os.environ[RAISE] = "1"
    try:
        _launch()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
    finally:
        os.environ.pop(RAISE, None)

"""Build the object of one option in the way a launch does; exports and the Python interface use this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.config.choices import check_choices
from pruning.config.compose import build
from pruning.config.groups import options
from pruning.config.hydra_errors import explained
from pruning.config.settings_check import check_settings
from pruning.config.words import check_words
from pruning.core.errors import InputError, unknown
from pruning.core.recorded import recorded
from pruning.hydra_app.replay_command import composed


def build_named(group: str, name: str, *words: str) -> Any:
    """Build the object of the option `name` of a group, with further words such as `seed=1`.

    Raises InputError if there is no such option, and the errors of `build_option`.
    """
    if name not in options(group):
        raise unknown(group, name, options(group))
    return build_option(group, [f"{group}={name}", *words])


def build_option(group: str, words: Sequence[str]) -> Any:
    """Build the object of a config group from words such as `model=local model.path=DIR`.

    Raises InputError if an option or a setting does not exist, a value is missing, or the constructor refuses a
    value.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    check_words(words)
    check_choices(words)
    try:
        chosen = composed(words)[group]
        if missing := [name for name in chosen if str(chosen._get_node(name)) == "???"]:
            option = next((word.partition("=")[2] for word in words if word.startswith(f"{group}=")), None)
            raise InputError(f"{group}={option} needs a value: give {group}.{missing[0]}=...")
        plain = recorded(OmegaConf.to_container(chosen, resolve=True))
        names = dict(word.split("=", 1) for word in words if word.startswith(f"{group}="))
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
    check_settings({group: plain}, names)
    return build(group, plain)

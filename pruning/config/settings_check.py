"""Check the settings of a configuration before anything is built: every name must exist, every number be finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from pruning.config.groups import class_named, class_settings
from pruning.config.hydra_errors import unknown_setting
from pruning.config.schema import Config
from pruning.core.errors import InputError, PruningError, merged_error
from pruning.core.nested import leaves
from pruning.core.recorded import CLASS, check_literal

HIGHEST = 2**63 - 1  # the largest whole number that torch, numpy and SLURM accept


def check_settings(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Raise InputError for settings that do not exist, numbers that are NaN or too large, and texts that hold `${`.

    `plain` is in the recorded form. Classes are looked up in their groups; nothing that a record names is imported.
    """
    # Shell lines of a launcher may hold `${HOME}`: no cell records them.
    check_literal({name: value for name, value in plain.items() if name != "launcher"})
    errors: list[PruningError] = [*_numbers(plain), *_names(plain, Config, "", choices)]
    if errors:
        raise merged_error(errors)


def _numbers(plain: Mapping[str, Any]) -> Iterator[InputError]:
    for path, value in leaves(plain):
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                yield InputError(f"{path}={number} is not a finite number: give one that is.")
            elif isinstance(number, int) and abs(number) > HIGHEST and not path.endswith("seed"):
                yield InputError(f"{path}={number} is out of range: choose at most {HIGHEST}.")


def _names(settings: Any, cls: Any, path: str, choices: Mapping[str, Any]) -> Iterator[InputError]:
    """Errors for the names that a class of settings does not have, at any depth."""
    if not isinstance(settings, Mapping):
        return
    if CLASS in settings:
        cls = class_named(path.partition(".")[0], str(settings[CLASS]))
    if not dataclasses.is_dataclass(cls):
        return
    known = class_settings(cls)
    hints = get_type_hints(cls)
    for name, value in settings.items():
        here = f"{path}{name}"
        if name in known:
            yield from _names(value, hints.get(name), f"{here}.", choices)
        elif name != CLASS:
            group = here.partition(".")[0]
            yield unknown_setting(here, known, choices.get(group))

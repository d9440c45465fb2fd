"""Check the options that a command line chooses, before Hydra reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from pruning.config.groups import GROUPS, options
from pruning.config.schema import Config
from pruning.config.words import is_setting
from pruning.core.errors import InputError, PruningError, unknown

KEPT = {field.name for field in dataclasses.fields(Config)} - {*GROUPS}  # settings that every cell has


def check_choices(arguments: Sequence[str]) -> None:
    """Raise InputError, which gives similar names, if a command line names an unknown option of a group.

    It also refuses words that would remove settings that every cell has.
    """
    if any(argument.startswith(("--config-", "-cd", "-cn", "-cp")) for argument in arguments):
        return  # another configuration folder can have more options; Hydra itself checks them
    overrides = [word for word in arguments if is_setting(word)]
    errors: list[PruningError] = []
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return  # Hydra reports the error, with its position
    for override in parsed:
        errors += _unknown(override) if override.key_or_group in GROUPS else _unfit(override)
    if errors:
        raise InputError("\n".join(map(str, errors)))


def _unknown(override: Override) -> list[PruningError]:
    """Errors for the options of a group that do not exist."""
    group, known = override.key_or_group, options(override.key_or_group)
    errors: list[PruningError] = []
    for name in _values(override):
        text = name.text if isinstance(name, QuotedString) else name
        if override.is_delete() or isinstance(text, Glob):
            continue  # a glob names only options that exist
        if group == "experiment" and not isinstance(text, str):
            continue  # none, or a list of experiments
        if text not in known:
            errors.append(unknown(group, "null" if text is None else str(text), known))
    return errors


def _unfit(override: Override) -> list[PruningError]:
    """Errors for a word that would remove what every cell has, or that takes `protect` for a group of options."""
    name = override.key_or_group
    if override.is_delete() and name in KEPT:
        return [InputError(f"~{name} would remove settings that every cell has: leave it out.")]
    if name == "protect" and not all(isinstance(value, Mapping) for value in _values(override)):
        return [InputError("protect takes two numbers of blocks: give protect.first=N and protect.last=N.")]
    return []


def _values(override: Override) -> list[Any]:
    value = override.value()
    return list(value.list) if isinstance(value, ChoiceSweep) else [value]

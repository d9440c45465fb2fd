"""From what was asked for on the command line, and what Hydra composed of it, to a cell and a launcher."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pruning.cell import Cell, Choices, ForwardSettings, Protect
from pruning.config import GROUPS, Config, options
from pruning.errors import InputError, PruningError, first_line, unknown
from pruning.racing import Racing


def check_choices(arguments: Sequence[str]) -> None:
    """Raise InputError, with near names, for an option on the command line that no group has."""
    if any(argument.startswith(("--config-", "-cd", "-cn", "-cp")) for argument in arguments):
        return  # other folders may hold more options: Hydra itself checks them
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    errors: list[PruningError] = []
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return  # Hydra says it itself, with the place
    for override in parsed:
        value = override.value()
        names = value.list if isinstance(value, ChoiceSweep) else [value]
        for name in names if override.key_or_group in GROUPS else ():
            text = name.text if isinstance(name, QuotedString) else name
            if isinstance(text, str) and text not in options(override.key_or_group):
                errors.append(unknown(override.key_or_group, text, options(override.key_or_group)))
    if errors:
        raise InputError("\n".join(map(str, errors)))


def cell_of(config: DictConfig, choices: Mapping[str, Any]) -> Cell:
    """The cell of a composed configuration and of the options that Hydra chose for its groups.

    Raises InputError for a value that is missing or out of range.
    """
    named = Choices(**{name: str(choices[name]) for name in ("objective", "calibration", "algo")})
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        built = {group: instantiate(config[group], _convert_="all") for group in GROUPS[:-1]}
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        option = key.partition(".")[0]
        raise InputError(f"{option}={choices.get(option)} needs a value: give {key}=...") from error
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from error
    except InstantiationException as error:
        if isinstance(cause := error.__cause__, PruningError):  # what a constructor raised
            raise cause from None
        raise InputError(first_line(error)) from error
    assert isinstance(plain, dict)
    _check_top(plain)
    # Where a cell runs, and on what, is no part of what it is.
    del plain["launcher"]
    plain["model"].pop("resources", None)
    return Cell(
        choices=named,
        model=built["model"],
        objective=built["objective"],
        calibration=built["calibration"],
        algo=built["algo"],
        compensation=built["compensation"],
        evaluation=built["eval"],
        tracker=built["tracker"],
        ratio=config.ratio,
        k=config.k,
        protect=Protect(config.protect.first, config.protect.last),
        seed=config.seed,
        study=config.study,
        results=Path(config.paths.results).expanduser().resolve(),
        forward=ForwardSettings(**plain["forward"]),
        share=config.scores.share,
        racing=Racing(**plain["racing"]),
        config={str(key): value for key, value in plain.items()},
    )


def launcher_of(configs: Sequence[DictConfig]) -> Any:
    """The one launcher of a command. Raises InputError where its cells differ in it."""
    first = OmegaConf.to_container(configs[0].launcher, resolve=True)
    if any(OmegaConf.to_container(config.launcher, resolve=True) != first for config in configs):
        raise InputError("launcher differs between cells: give each in a command of its own.")
    return instantiate(first, _convert_="all")


def _check_top(plain: dict[Any, Any]) -> None:
    """Raise InputError for what the types of the top level let through."""
    known = [item.name for item in dataclasses.fields(Config)]
    for name in plain.keys() - known:
        raise unknown("setting", str(name), known)
    if not re.fullmatch(r"[\w.+-]+", plain["study"]) or set(plain["study"]) <= {"."}:
        raise InputError(f"study={plain['study']!r} names a file: use letters, digits, '.', '_', '-'.")
    if plain["seed"] < 0:
        raise InputError(f"seed={plain['seed']} is negative: choose a number from 0 on.")
    if not plain["paths"]["results"]:
        raise InputError("paths.results is empty: give a folder.")
    ForwardSettings(**plain["forward"]).check()
    Racing(**plain["racing"]).check()

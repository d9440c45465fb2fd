"""Build a cell and a launcher from a composed or a recorded configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pruning.calibration import kinds_for
from pruning.config.groups import BUILT, calibrations, class_named
from pruning.config.settings_check import check_settings
from pruning.core.errors import InputError, PruningError, first_line
from pruning.core.recorded import CLASS, OPTION, check_literal, recorded, without_option
from pruning.healing.settings import SELECTING
from pruning.models.spec import Model
from pruning.runs.cell import Cell, Choices
from pruning.runs.cell_settings import ForwardSettings, Protect
from pruning.runs.removal import Latency
from pruning.search.near_ties import NearTies
from pruning.search.racing import Racing

COMMAND = ("launcher", "guide", "published", "tasks", "router")  # settings of the command, not of its cells
PARTS = tuple(group for group in BUILT if group != "launcher")  # the groups that a cell is made of
ADDED = {"heal": {CLASS: "NoHealing"}}  # groups that older results lack, and results that do not use them


def cell_of(config: DictConfig, choices: Mapping[str, Any]) -> Cell:
    """The cell of a composed configuration; `choices` holds the chosen option of each Hydra group.

    Raises InputError if a value is missing or out of range.
    """
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        option = key.partition(".")[0]
        if option not in choices:
            raise InputError(f"{key} is missing: give {key}=...") from error
        raise InputError(f"{option}={choices[option]} needs a value: give {key}=...") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{first_line(error)}.") from error
    return _cell(recorded(container), choices)


def _cell(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> Cell:
    """The cell of a configuration in the recorded form, without the names of options."""
    check_settings(plain, choices)
    built = {group: build(group, plain[group]) for group in PARTS}
    _check_top(plain)
    results = _folder("paths.results", plain["paths"]["results"])
    check_literal({"paths": {"results": str(results)}})  # a later healing records it
    cell = Cell(
        choices=Choices(**{name: str(choices[name]) for name in ("objective", "calibration", "algo")}),
        model=built["model"],
        objective=built["objective"],
        calibration=built["calibration"],
        algo=built["algo"],
        compensation=built["compensation"],
        evaluation=built["eval"],
        tracker=built["tracker"],
        ratio=plain["ratio"],
        k=plain["k"],
        protect=Protect(**plain["protect"]),
        seed=plain["seed"],
        study=plain["study"],
        results=results,
        export=None if plain["export"] is None else _folder("export", plain["export"]),
        forward=ForwardSettings(**plain["forward"]),
        share=plain["scores"]["share"],
        racing=Racing(**plain["racing"]),
        near_ties=NearTies(**plain.get("near_ties", {})),
        config=_record(plain, choices, built["model"]),
        unit=plain.get("unit", "block"),
        budget=plain.get("budget", "parameters"),
        latency=Latency(**plain.get("latency", {})),
        heal=built["heal"],
    )
    _check_calibration(cell)
    return cell


def recorded_cell(config: Mapping[str, Any], choices: Mapping[str, str]) -> Cell:
    """The cell of a recorded configuration, from a job or an old result. Raises InputError as `cell_of` does."""
    check_literal(config)
    whole, names = {**config, "launcher": None}, dict(choices)
    for group in PARTS:
        settings = recorded(config[group] if group in config else ADDED.get(group))
        whole[group] = without_option(settings)
        if isinstance(settings, Mapping) and OPTION in settings:  # results of older versions name no options
            names.setdefault(group, settings[OPTION])
    try:
        return _cell(whole, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the recorded configuration is damaged ({error!r}): run the cell again.") from error


def build(group: str, settings: Any) -> Any:
    """The object of a group's settings in the recorded form; settings within it that name a class become objects.

    Only classes of the group are built, and no value is interpreted, so that a record from elsewhere can be read.
    Raises InputError if there is no such class or it refuses the settings.
    """
    if not isinstance(settings, Mapping) or CLASS not in settings:
        raise InputError(f"{group}={settings} names no class: choose an option, {group}=NAME.")
    return _built(group, settings)


def _built(group: str, settings: Any) -> Any:
    if isinstance(settings, list | tuple):
        return [_built(group, item) for item in settings]
    if not isinstance(settings, Mapping):
        return settings
    values = {key: _built(group, value) for key, value in settings.items() if key != CLASS}
    if CLASS not in settings:
        return values
    cls = class_named(group, str(settings[CLASS]))
    try:
        return cls(**values)
    except PruningError:
        raise
    except Exception as error:  # whatever a constructor makes of a value of a wrong type
        raise InputError(
            f"the settings of {group} do not fit {cls.__name__}: {first_line(error)}."
        ) from error


def launcher_of(configs: Sequence[DictConfig]) -> Any:
    """The one launcher of a command. Raises InputError if its cells ask for different launchers."""
    first = OmegaConf.to_container(configs[0].launcher, resolve=True)
    if any(OmegaConf.to_container(config.launcher, resolve=True) != first for config in configs):
        raise InputError("launcher differs between cells: use a separate command for each launcher.")
    return build("launcher", recorded(first))


def recorded_launcher(settings: Mapping[str, Any]) -> Any:
    """The launcher with the settings that a submission recorded."""
    return build("launcher", recorded(settings))


def _record(plain: Mapping[str, Any], choices: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The recorded form of a configuration: options and classes by name, without what no cell has."""
    config: dict[str, Any] = {str(key): recorded(value) for key, value in plain.items() if key not in COMMAND}
    for group in PARTS:
        if group in choices:
            config[group] = {OPTION: str(choices[group]), **config[group]}
    config["model"].pop("resources", None)
    if config["heal"][CLASS] == ADDED["heal"][CLASS]:
        del config["heal"]  # so that a result without healing is the same as in earlier versions
    elif config["heal"].get("candidates") == 1:  # and so is one that heals the search's mask
        config["heal"] = {name: value for name, value in config["heal"].items() if name not in SELECTING}
    # The configuration can leave the name to the directory, and can give a GGUF file as the path.
    config["model"] |= {"name": model.name, "path": model.path, "gguf_file": model.gguf_file}
    return config


def _check_calibration(cell: Cell) -> None:
    """Raise InputError if the objective cannot read the kind of samples that the calibration draws."""
    needs = cell.objective.needs
    if cell.calibration.kind not in kinds_for(needs):
        raise InputError(
            f"objective={cell.choices.objective} needs {needs}, and calibration="
            f"{cell.choices.calibration} gives {cell.calibration.kind}. "
            f"Calibrations that fit: {', '.join(calibrations(needs))}."
        )


def _folder(setting: str, path: str) -> Path:
    """The absolute path of a folder. Raises InputError if the setting is empty or there can be no such path."""
    if not path.strip():
        raise InputError(f"{setting} is empty: give a folder, {setting}=DIR, or leave it out.")
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{setting}={path} is no folder ({error}): give another.") from error


def _check_top(plain: Mapping[str, Any]) -> None:
    """Raise InputError for invalid values of the right type at the top level."""
    if not re.fullmatch(r"[\w.+-]+", plain["study"]) or set(plain["study"]) <= {"."}:
        raise InputError(
            f"study={plain['study']!r} is no file name: use letters, digits, '.', '_', '-', not only dots."
        )
    if plain["seed"] < 0:
        raise InputError(f"seed={plain['seed']} is negative: choose 0 or more.")
    ForwardSettings(**plain["forward"]).check()
    Racing(**plain["racing"]).check()
    NearTies(**plain.get("near_ties", {})).check()
    Latency(**plain.get("latency", {})).check()

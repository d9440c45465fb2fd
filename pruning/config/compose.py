"""Build a cell and a launcher from a composed or a recorded configuration."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pruning.calibration import kinds_for
from pruning.config.app import build, check_settings, composed, settings_of
from pruning.config.groups import BUILT, option_classes
from pruning.config.words import check_choices, check_words, chosen_option, explained
from pruning.core import records
from pruning.core.errors import InputError
from pruning.core.mask import Latency
from pruning.core.scoring import NearTies, Racing
from pruning.healing.heal_settings import SELECTING
from pruning.models.handle import Model
from pruning.runs.cell import Cell, Command, Protect

COMMAND = ("launcher", "guide", "minutes", "tasks")  # settings of the command, not of its cells
PARTS = tuple(group for group in BUILT if group != "launcher")  # the groups that a cell is made of
PLAIN = ("ratio", "k", "seed", "unit", "budget", "max_evaluations")
SETTINGS = {"racing": Racing, "near_ties": NearTies, "latency": Latency}


def cell_of_words(words: Sequence[str]) -> Cell:
    """The cell that a command's arguments describe, for commands that use its settings but do not run it."""
    check_words(words)
    check_choices(words)
    try:
        return cell_of(composed(words), {group: chosen_option(group, words) or "" for group in PARTS})
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error


def cell_of(config: DictConfig, choices: Mapping[str, Any]) -> Cell:
    """The cell of a composed configuration; `choices` maps each Hydra group to its chosen option.

    Raises InputError if a value is missing or out of range.
    """
    return _cell(settings_of(config, choices), choices)


def recorded_cell(config: Mapping[str, Any]) -> Cell:
    """The cell of a recorded configuration, from a job or a result. Raises InputError as `cell_of` does."""
    records.check_literal(config)
    config = {"heal": records.NO_HEALING, **records.recorded(config)}
    names = {
        group: settings[records.OPTION]
        for group in PARTS
        if isinstance(settings := config.get(group), Mapping) and records.OPTION in settings
    }
    plain = config | {group: records.without_option(config[group]) for group in PARTS if group in config}
    try:
        return _cell(plain | {"launcher": None}, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the recorded configuration is damaged ({error!r}): run the cell again.") from error


def _cell(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> Cell:
    """The cell of a configuration as results record it; `choices` maps each group to its option."""
    check_settings(plain, choices)
    built = {group: build(group, plain[group]) for group in PARTS}
    parts: dict[str, Any] = {name: cls(**plain[name]) for name, cls in SETTINGS.items()}
    study, seed, export = plain["study"], plain["seed"], plain["export"]
    if not re.fullmatch(r"[\w.+-]+", study) or set(study) <= {"."}:
        raise InputError(
            f"study={study!r} is not a file name: use letters, digits, '.', '_', '-', not only dots."
        )
    if seed < 0:
        raise InputError(f"seed={seed} is negative: choose 0 or more.")
    for settings in parts.values():
        settings.check()
    results = _folder("paths.results", plain["paths"]["results"])
    records.check_literal({"paths": {"results": str(results)}})  # a later healing run records the path
    kind, config = built["calibration"].kind, _record(plain, choices, built["model"])
    if kind not in kinds_for(needs := built["objective"].needs):
        fit = [name for name, cls in option_classes("calibration").items() if cls.kind in kinds_for(needs)]
        objective, calibration = (config[group].get(records.OPTION) for group in ("objective", "calibration"))
        raise InputError(
            f"objective={objective} needs {needs}, and calibration={calibration} gives {kind}. "
            f"Calibrations that fit: {', '.join(fit)}."
        )
    return Cell(
        evaluation=built.pop("eval"),
        protect=Protect(**plain["protect"]),
        command=Command(
            results,
            study,
            built.pop("tracker"),
            share=plain["scores"]["share"],
            export=None if export is None else _folder("export", export),
        ),
        config=config,
        **{name: plain[name] for name in PLAIN},
        **built,
        **parts,
    )


def _record(plain: Mapping[str, Any], choices: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """A configuration as results record it: options and classes by name, without settings of the command."""
    config: dict[str, Any] = {
        str(key): records.recorded(value) for key, value in plain.items() if key not in COMMAND
    }
    for group in PARTS:
        if group in choices or group in ("objective", "algo"):  # the key of a cell needs their names
            config[group] = {records.OPTION: str(choices[group]), **config[group]}
    config["model"].pop("resources", None)
    # `heal` is recorded only if the cell is healed; settings of the selection, only with several candidates.
    if config["heal"][records.CLASS] == records.NO_HEALING[records.CLASS]:
        del config["heal"]
    elif config["heal"].get("candidates") == 1:
        config["heal"] = {name: value for name, value in config["heal"].items() if name not in SELECTING}
    # These can differ from the configuration: the name can come from the directory, and the path can be a GGUF file.
    config["model"] |= {"name": model.name, "path": model.path, "gguf_file": model.gguf_file}
    return config


def _folder(setting: str, path: str) -> Path:
    """The absolute path of a folder. Raises InputError if the path is invalid."""
    if not path.strip() or any(unicodedata.category(character) == "Cc" for character in path):
        raise InputError(
            f"{setting}={path!r} is empty or holds a control character: give another folder, or leave it out."
        )
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{setting}={path} is not a folder ({error}): give another.") from error


def launcher_of(configs: Sequence[DictConfig]) -> Any:
    """The launcher that all cells of a command share. Raises InputError if their launchers differ."""
    first = OmegaConf.to_container(configs[0].launcher, resolve=True)
    if any(OmegaConf.to_container(config.launcher, resolve=True) != first for config in configs):
        raise InputError("launcher differs between cells: use a separate command for each launcher.")
    return build("launcher", first)

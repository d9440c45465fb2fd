"""Build a cell and a launcher from a composed or a recorded configuration."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pruning.calibration import kinds_for
from pruning.config.groups import (
    BUILT,
    CONF,
    GROUPS,
    Config,
    calibrations,
    class_named,
    class_settings,
    members,
    options,
)
from pruning.core.errors import InputError, PruningError, first_line, merged_error, near_names, unknown
from pruning.core.mask import Latency
from pruning.core.records import (
    CLASS,
    OPTION,
    TARGET,
    check_literal,
    leaves,
    recorded,
    with_limit,
    without_option,
)
from pruning.healing.heal_settings import SELECTING
from pruning.models.model import Model
from pruning.runs.cell import Cell, Choices, ForwardSettings, Protect
from pruning.search.choice import NearTies, Racing

COMMAND = ("launcher", "guide", "tasks", "router")  # settings of the command, not of its cells
PARTS = tuple(group for group in BUILT if group != "launcher")  # the groups that a cell is made of
ADDED = {"heal": {CLASS: "NoHealing"}}  # groups that older results lack, and results that do not use them
DECIDED = ("batch_tokens", "patience", "merge")  # recorded settings of `forward` that the program now decides


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
        max_evaluations=plain.get("max_evaluations"),
    )
    _check_calibration(cell)
    return cell


def recorded_cell(config: Mapping[str, Any], choices: Mapping[str, str]) -> Cell:
    """The cell of a recorded configuration, from a job or an old result. Raises InputError as `cell_of` does."""
    check_literal(config)
    config = with_limit(dict(config))
    whole, names = {**config, "launcher": None}, dict(choices)
    for group in PARTS:
        settings = recorded(config[group] if group in config else ADDED.get(group))
        whole[group] = without_option(settings)
        if isinstance(settings, Mapping) and OPTION in settings:  # results of older versions name no options
            names.setdefault(group, settings[OPTION])
    if isinstance(forward := whole.get("forward"), Mapping):
        whole["forward"] = {name: value for name, value in forward.items() if name not in DECIDED}
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


# Check the options that a command line chooses, before Hydra reads it.

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


# Say in plain words what is wrong with a setting that Hydra or OmegaConf refuses.

KINDS = {
    "Float": "a number",
    "Integer": "a whole number, such as 1000000 instead of 1e6",
    "Boolean": "true or false",
    "String": "text",
}


def explained(error: Exception, words: Sequence[str]) -> InputError:
    """An InputError in this project's words for an error of Hydra or OmegaConf."""
    cause = error.__cause__ or error
    if match := re.match(r"Could not override '([^']+)'", str(error)):
        return _refused_key(match[1], cause, words)
    if match := re.match(r"Error merging override (.*)", first_line(error)):
        return InputError(_refused_value(match[1], cause))
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", first_line(error)):
        name, value = match.groups()
        return InputError(
            f"{name}={value} holds a comma. Add -m to run one cell for each value, write {name}=[{value}] for a "
            f"list, or quote a text that holds a comma: '{name}=\"{value}\"'."
        )
    return InputError(f"{' '.join(str(error).split())}.".replace("..", "."))


def unknown_setting(path: str, known: Iterable[str], option: str | None) -> InputError:
    """An InputError for the setting `path`, such as `algo.foo`; `known` are the settings beside it.

    If other options of the group have the setting, the error names them.
    """
    group, _, _ = path.partition(".")
    parent, _, name = path.rpartition(".")
    names = sorted({*known} - {TARGET, "hydra"})
    owner = f"{group}={option}" if option and parent == group else parent
    if not parent:
        return InputError(
            f"unknown setting '{name}'.{near_names(name, names)} Available: {', '.join(names)}."
        )
    settings = f"Its settings: {', '.join(names)}." if names else "It has no settings."
    return InputError(
        f"{owner} has no setting '{name}'.{near_names(name, names)} {settings}{_elsewhere(path, option)}"
    )


def _elsewhere(path: str, option: str | None) -> str:
    """Which other options of the group have the setting; empty if there are none."""
    group, _, name = path.partition(".")
    if group not in BUILT:
        return ""
    schemas = [f"/schema/{group}/{other}@" for other, cls in members(group) if name in class_settings(cls)]
    texts = {one: (CONF / group / f"{one}.yaml").read_text(encoding="utf-8") for one in options(group)}
    found = [one for one, text in texts.items() if one != option and any(s in text for s in schemas)]
    return f" {path} is a setting of {', '.join(f'{group}={one}' for one in found)}." if found else ""


def _refused_key(path: str, cause: BaseException, words: Sequence[str]) -> InputError:
    full = getattr(cause, "full_key", None) or path
    parent = getattr(cause, "parent_node", None)
    if full != path and full.startswith(f"{path}."):  # a new entry of a dictionary, given as a whole
        entry = full[len(path) + 1 :]
        return InputError(f"{path} has no entry '{entry}': add it with '+{full}=...'.")
    known = list(map(str, parent.keys())) if isinstance(parent, DictConfig) else []
    return unknown_setting(path, known, _option(path.partition(".")[0], words))


def _option(group: str, words: Sequence[str]) -> str | None:
    """The option of a group that a command line chooses, or the default."""
    for word in words:
        name, _, value = word.partition("=")
        if name.lstrip("+") == group and re.fullmatch(r"\w+", value):
            return value
    import yaml

    entries = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return next((entry[group] for entry in entries if isinstance(entry, Mapping) and group in entry), None)


def _refused_value(word: str, cause: Any) -> str:
    wanted = re.search(r"could not be converted to (\w+)", str(cause))
    if wanted and wanted[1] in KINDS:
        return f"{word} is not valid: give {KINDS[wanted[1]]}."
    return f"{word} is not valid ({first_line(cause)})."


# Check the settings of a configuration before anything is built: every name must exist, every number be finite.

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


# The words of a command line: their order, and how to quote what Hydra's grammar cannot read.

SWEEP = {"-m", "--multirun"}


MAPPINGS = ("texts", "items", "templates", "max_memory")  # settings whose values are written in braces


def ordered(words: Sequence[str]) -> list[str]:
    """The words with all settings before all flags: Hydra does not accept settings on both sides of a flag."""
    settings = [word for word in words if is_setting(word)]
    return [*settings, *(word for word in words if not is_setting(word))]


def is_setting(word: str) -> bool:
    """Whether a word gives or removes a setting: `name=value`, `+name=value`, `~name`."""
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def names_folder(word: str) -> bool:
    """Whether a word of a command that takes folders and settings is a folder: `results`, `~/results`, `./k=1`."""
    return "=" not in word or word.startswith(("/", "~", "."))


def check_words(words: Sequence[str]) -> None:
    """Raise InputError, which shows the quoted word, for each setting that Hydra's grammar cannot read."""
    errors = [
        InputError(_unreadable(word, bool(SWEEP & {*words})))
        for word in words
        if is_setting(word) and not _reads(word)
    ]
    if errors:
        raise merged_error(errors)


def _reads(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _unreadable(word: str, sweeps: bool) -> str:
    name, _, value = word.partition("=")
    odd = " ".join(dict.fromkeys(re.findall(r"[^\w./:,@+\-\s%]|[^\x00-\x7f]", value)))
    wrong = f"{word} cannot be read" + (f": Hydra reserves {odd}" if odd else "")
    quoted = f"{name}={_quoted(value, sweeps)}"
    if value[:1] == "[" or (value[:1] == "{" and name.rpartition(".")[2] in MAPPINGS):
        return f"{wrong}. Quote each path or text within the brackets: '{name}={{NAME: \"PATH\"}}'."
    if not _reads(quoted):
        return f"{wrong}. Write NAME=VALUE, and put the value in quotes within quotes: 'NAME=\"VALUE\"'."
    return f"{wrong}. Put the value in quotes within quotes: {_for_shell(quoted)}"


def _quoted(value: str, sweeps: bool) -> str:
    """A value in double quotes; in a sweep, each of the values between commas."""
    parts = value.split(",") if sweeps else [value]
    return ",".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


def _for_shell(word: str) -> str:
    return f"'{word}'" if "'" not in word else shlex.quote(word)

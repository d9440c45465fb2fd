"""Build a cell and a launcher from a composed or a recorded configuration."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pruning.calibration import kinds_for
from pruning.config.groups import (
    BUILT,
    CONF,
    GROUPS,
    Config,
    class_named,
    class_settings,
    option_classes,
    options,
)
from pruning.core.errors import InputError, PruningError, first_line, merged_error, near_names, unknown
from pruning.core.mask import Latency
from pruning.core.records import (
    CLASS,
    NO_HEALING,
    OPTION,
    TARGET,
    check_literal,
    leaves,
    recorded,
    with_added,
    with_limit,
    without_option,
)
from pruning.healing.heal_settings import SELECTING
from pruning.models.model import Model
from pruning.runs.cell import Cell, Choices, ForwardSettings, Protect
from pruning.search.choice import NearTies, Racing

COMMAND = ("launcher", "guide", "minutes", "tasks", "router")  # settings of the command, not of its cells
PARTS = tuple(group for group in BUILT if group != "launcher")  # the groups that a cell is made of


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


def recorded_cell(config: Mapping[str, Any], choices: Mapping[str, str]) -> Cell:
    """The cell of a recorded configuration, from a job or a result. Raises InputError as `cell_of` does."""
    check_literal(config)
    config = with_added(with_limit(recorded(config)))
    names = {
        group: settings[OPTION]
        for group in PARTS
        if isinstance(settings := config.get(group), Mapping) and OPTION in settings
    }
    plain = config | {group: without_option(config[group]) for group in PARTS if group in config}
    try:
        return _cell(plain | {"launcher": None}, {**names, **choices})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the recorded configuration is damaged ({error!r}): run the cell again.") from error


def _cell(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> Cell:
    """The cell of a configuration in the recorded form, without the names of options."""
    check_settings(plain, choices)
    built = {group: build(group, plain[group]) for group in PARTS}
    forward, racing = ForwardSettings(**plain["forward"]), Racing(**plain["racing"])
    near_ties, latency = NearTies(**plain["near_ties"]), Latency(**plain["latency"])
    study, seed, export = plain["study"], plain["seed"], plain["export"]
    if not re.fullmatch(r"[\w.+-]+", study) or set(study) <= {"."}:
        raise InputError(
            f"study={study!r} is no file name: use letters, digits, '.', '_', '-', not only dots."
        )
    if seed < 0:
        raise InputError(f"seed={seed} is negative: choose 0 or more.")
    for settings in (forward, racing, near_ties, latency):
        settings.check()
    results = _folder("paths.results", plain["paths"]["results"])
    check_literal({"paths": {"results": str(results)}})  # a later healing records it
    objective, calibration, kind = choices["objective"], choices["calibration"], built["calibration"].kind
    if kind not in kinds_for(needs := built["objective"].needs):
        fit = [name for name, cls in option_classes("calibration").items() if cls.kind in kinds_for(needs)]
        raise InputError(
            f"objective={objective} needs {needs}, and calibration={calibration} gives {kind}. "
            f"Calibrations that fit: {', '.join(fit)}."
        )
    return Cell(
        choices=Choices(str(objective), str(calibration), str(choices["algo"])),
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
        seed=seed,
        study=study,
        results=results,
        export=None if export is None else _folder("export", export),
        forward=forward,
        share=plain["scores"]["share"],
        racing=racing,
        near_ties=near_ties,
        config=_record(plain, choices, built["model"]),
        unit=plain["unit"],
        budget=plain["budget"],
        latency=latency,
        heal=built["heal"],
        max_evaluations=plain["max_evaluations"],
    )


def _record(plain: Mapping[str, Any], choices: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The recorded form of a configuration: options and classes by name, without what no cell has."""
    config: dict[str, Any] = {str(key): recorded(value) for key, value in plain.items() if key not in COMMAND}
    for group in PARTS:
        if group in choices:
            config[group] = {OPTION: str(choices[group]), **config[group]}
    config["model"].pop("resources", None)
    # A cell that is not healed records nothing about it, and one that heals the search's mask no selection.
    if config["heal"][CLASS] == NO_HEALING[CLASS]:
        del config["heal"]
    elif config["heal"].get("candidates") == 1:
        config["heal"] = {name: value for name, value in config["heal"].items() if name not in SELECTING}
    # The configuration can leave the name to the directory, and can give a GGUF file as the path.
    config["model"] |= {"name": model.name, "path": model.path, "gguf_file": model.gguf_file}
    return config


def _folder(setting: str, path: str) -> Path:
    """The absolute path of a folder. Raises InputError if the setting is empty or there can be no such path."""
    if not path.strip():
        raise InputError(f"{setting} is empty: give a folder, {setting}=DIR, or leave it out.")
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{setting}={path} is no folder ({error}): give another.") from error


def launcher_of(configs: Sequence[DictConfig]) -> Any:
    """The one launcher of a command. Raises InputError if its cells ask for different launchers."""
    first = OmegaConf.to_container(configs[0].launcher, resolve=True)
    if any(OmegaConf.to_container(config.launcher, resolve=True) != first for config in configs):
        raise InputError("launcher differs between cells: use a separate command for each launcher.")
    return build("launcher", first)


def build(group: str, settings: Any) -> Any:
    """The object of a group's settings; settings within it that name a class become objects.

    Only classes of the group are built, and no value is interpreted, so that a record from elsewhere can be read.
    Raises InputError if there is no such class or it refuses the settings.
    """
    settings = recorded(settings)
    if not isinstance(settings, Mapping) or CLASS not in settings:
        raise InputError(f"{group}={settings} names no class: choose an option, {group}=NAME.")
    return _built(group, settings)


def _built(group: str, settings: Any) -> Any:
    if isinstance(settings, list):
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
    known, hints = class_settings(cls), get_type_hints(cls)
    for name, value in settings.items():
        here = f"{path}{name}"
        if name in known:
            yield from _names(value, hints.get(name), f"{here}.", choices)
        elif name != CLASS:
            yield _unknown_setting(here, known, choices.get(here.partition(".")[0]))


def _unknown_setting(path: str, known: Iterable[str], option: str | None) -> InputError:
    """An InputError for the setting `path`, such as `algo.foo`; `known` are the settings beside it.

    If other options of the group have the setting, the error names them.
    """
    parent, _, name = path.rpartition(".")
    group = path.partition(".")[0]
    names = sorted({*known} - {TARGET, "hydra"})
    if not parent:
        return InputError(
            f"unknown setting '{name}'.{near_names(name, names)} Available: {', '.join(names)}."
        )
    owner = f"{group}={option}" if option and parent == group else parent
    text = f"Its settings: {', '.join(names)}." if names else "It has no settings."
    classes = option_classes(group) if group in BUILT else {}
    found = [
        one for one, cls in classes.items() if one != option and path[len(group) + 1 :] in class_settings(cls)
    ]
    if found:
        text += f" {path} is a setting of {', '.join(f'{group}={one}' for one in found)}."
    return InputError(f"{owner} has no setting '{name}'.{near_names(name, names)} {text}")


# Check the words of a command line before Hydra reads them, and say in plain words what Hydra refuses.

SWEEP = {"-m", "--multirun"}
MAPPINGS = ("texts", "items", "templates", "max_memory")  # settings whose values are written in braces
KEPT = {field.name for field in dataclasses.fields(Config)} - {*GROUPS}  # settings that every cell has
TYPES = {
    "Float": "a number",
    "Integer": "a whole number, such as 1000000 instead of 1e6",
    "Boolean": "true or false",
    "String": "text",
}


def is_setting(word: str) -> bool:
    """Whether a word gives or removes a setting: `name=value`, `+name=value`, `~name`."""
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def names_folder(word: str) -> bool:
    """Whether a word of a command that takes folders and settings is a folder: `results`, `~/results`, `./k=1`."""
    return "=" not in word or word.startswith(("/", "~", "."))


def ordered(words: Sequence[str]) -> list[str]:
    """The words with all settings before all flags: Hydra does not accept settings on both sides of a flag."""
    return sorted(words, key=lambda word: not is_setting(word))


def check_words(words: Sequence[str]) -> None:
    """Raise InputError, which shows the quoted word, for each setting that Hydra's grammar cannot read."""
    sweeps = bool(SWEEP & {*words})
    wrong = [word for word in words if is_setting(word) and not _reads(word)]
    if wrong:
        raise merged_error([InputError(_unreadable(word, sweeps)) for word in wrong])


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
    if value[:1] == "[" or (value[:1] == "{" and name.rpartition(".")[2] in MAPPINGS):
        return f"{wrong}. Quote each path or text within the brackets: '{name}={{NAME: \"PATH\"}}'."
    parts = value.split(",") if sweeps else [value]  # in a sweep, each value has its own quotes
    escaped = (part.replace("\\", "\\\\").replace('"', '\\"') for part in parts)
    quoted = f"{name}=" + ",".join(f'"{part}"' for part in escaped)
    if not _reads(quoted):
        return f"{wrong}. Write NAME=VALUE, and put the value in quotes within quotes: 'NAME=\"VALUE\"'."
    shell = f"'{quoted}'" if "'" not in quoted else shlex.quote(quoted)
    return f"{wrong}. Put the value in quotes within quotes: {shell}"


def check_choices(words: Sequence[str]) -> None:
    """Raise InputError, which gives similar names, if a command line names an unknown option of a group.

    It also refuses words that would remove settings that every cell has.
    """
    if any(word.startswith(("--config-", "-cd", "-cn", "-cp")) for word in words):
        return  # another configuration folder can have more options; Hydra itself checks them
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in words if is_setting(word)])
    except HydraException:
        return  # Hydra reports the error, with its position
    errors: list[PruningError] = []
    for override in parsed:
        name, given = override.key_or_group, override.value()
        values = list(given.list) if isinstance(given, ChoiceSweep) else [given]
        if name in GROUPS:
            if not override.is_delete():
                errors += _unknown_options(name, values)
        elif override.is_delete() and name in KEPT:
            errors.append(InputError(f"~{name} would remove settings that every cell has: leave it out."))
        elif name == "protect" and not all(isinstance(value, Mapping) for value in values):
            errors.append(
                InputError("protect takes two numbers of blocks: give protect.first=N and protect.last=N.")
            )
    if errors:
        raise InputError("\n".join(map(str, errors)))


def _unknown_options(group: str, values: Sequence[Any]) -> Iterator[InputError]:
    """Errors for the options of a group that do not exist."""
    known = options(group)
    for value in values:
        name = value.text if isinstance(value, QuotedString) else value
        globbed = isinstance(name, Glob)  # it names only options that exist
        several = group == "experiment" and not isinstance(name, str)  # none, or a list of experiments
        if not globbed and not several and name not in known:
            yield unknown(group, "null" if name is None else str(name), known)


def explained(error: Exception, words: Sequence[str]) -> InputError:
    """An InputError in this project's words for an error of Hydra or OmegaConf."""
    cause, line = error.__cause__ or error, first_line(error)
    if match := re.match(r"Could not override '([^']+)'", str(error)):
        path, full = match[1], getattr(cause, "full_key", None) or match[1]
        if full != path and full.startswith(f"{path}."):  # a new entry of a dictionary, given as a whole
            entry = full[len(path) + 1 :]
            return InputError(f"{path} has no entry '{entry}': add it with '+{full}=...'.")
        parent = getattr(cause, "parent_node", None)
        known = map(str, parent.keys()) if isinstance(parent, DictConfig) else ()
        return _unknown_setting(path, known, chosen_option(path.partition(".")[0], words))
    if match := re.match(r"Error merging override (.*)", line):
        wanted = re.search(r"could not be converted to (\w+)", str(cause))
        if wanted and wanted[1] in TYPES:
            return InputError(f"{match[1]} is not valid: give {TYPES[wanted[1]]}.")
        return InputError(f"{match[1]} is not valid ({first_line(cause)}).")
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", line):
        name, value = match.groups()
        return InputError(
            f"{name}={value} holds a comma. Add -m to run one cell for each value, write {name}=[{value}] for a "
            f"list, or quote a text that holds a comma: '{name}=\"{value}\"'."
        )
    return InputError(f"{' '.join(str(error).split())}.".replace("..", "."))


def chosen_option(group: str, words: Sequence[str]) -> str | None:
    """The option of a group that a command line chooses, or the default."""
    for word in words:
        name, _, value = word.partition("=")
        if name.lstrip("+") == group and re.fullmatch(r"\w+", value):
            return value
    entries = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return next((entry[group] for entry in entries if isinstance(entry, Mapping) and group in entry), None)

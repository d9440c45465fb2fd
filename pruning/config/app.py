"""Give Hydra the schema of every option, and build the objects that settings describe.

The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files. So Hydra rejects a
misspelt key, on the command line or in a file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pruning.config import groups
from pruning.config.words import (
    check_choices,
    check_words,
    chosen_option,
    explained,
    hub_names,
    is_hub_name,
    unknown_setting,
)
from pruning.core import records
from pruning.core.errors import InputError, PruningError, first_line, merged_error
from pruning.core.mask import Latency
from pruning.core.scoring import NearTies, Racing
from pruning.routing.task_study import TaskStudy
from pruning.runs.cell import Protect

# The types of a configuration's top level, and the schemas against which Hydra checks options.


@dataclasses.dataclass
class Paths:
    """The folder for results; a relative path starts from the working directory."""

    results: str = "results"


@dataclasses.dataclass
class ScoreSettings:
    """Whether a cell reuses losses that other cells computed. To time a cell's search, set `share=false`."""

    share: bool = True


@dataclasses.dataclass
class Config:
    """The top level of a configuration. For each group, the schema of its chosen option checks the settings."""

    model: Any = MISSING
    objective: Any = MISSING
    calibration: Any = MISSING
    algo: Any = MISSING
    compensation: Any = MISSING
    heal: Any = MISSING
    eval: Any = MISSING
    tracker: Any = MISSING
    launcher: Any = MISSING
    ratio: float | None = None
    k: int | None = None
    unit: str = "block"
    budget: str = "parameters"
    seed: int = 0
    max_evaluations: int | None = None
    protect: Protect = dataclasses.field(default_factory=Protect)
    export: str | None = None
    guide: bool = False
    minutes: float | None = None
    study: str = "default"
    paths: Paths = dataclasses.field(default_factory=Paths)
    latency: Latency = dataclasses.field(default_factory=Latency)
    racing: Racing = dataclasses.field(default_factory=Racing)
    near_ties: NearTies = dataclasses.field(default_factory=NearTies)
    scores: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
    tasks: TaskStudy = dataclasses.field(default_factory=TaskStudy)


@cache
def register() -> None:
    """Register schemas and resolvers, once per process; call this before Hydra reads the configuration.

    Raises InputError if two classes of a group have the same name. Class names identify cells and scores, so of two
    objectives with one name, each would reuse losses of the other.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group in groups.BUILT:
        modules: dict[str, str] = {}
        for name, cls in groups.members(group):
            if (other := modules.setdefault(cls.__name__, cls.__module__)) != cls.__module__:
                raise InputError(
                    f"{other} and {cls.__module__} both define a class {cls.__name__}: rename one, "
                    "because scores and cells are identified by that name."
                )
            store.store(group=f"schema/{group}", name=name, node=schema(cls))
    # `${unless:${k},0.2}` is 0.2 if k is null; otherwise, it is null.
    OmegaConf.register_new_resolver("unless", lambda one, other: other if one is None else None, replace=True)


def add_hub_models(words: Sequence[str]) -> None:
    """For each argument `model=OWNER/NAME`, register an option of the group `model`: that hub model, named NAME."""
    for whole in hub_names(words):
        owner, _, name = whole.partition("/")
        model = {"name": name, "source": "hub", "path": whole}
        node = {"defaults": ["/schema/model/model@_here_", "_self_"], **model}
        ConfigStore.instance().store(group=f"model/{owner}", name=name, node=node)


@cache
def schema(cls: type) -> type:
    """A dataclass with the fields of `cls` and a field `_target_` that makes Hydra build an object of `cls`."""
    hints = get_type_hints(cls)
    fields: list[Any] = [("_target_", str, dataclasses.field(default=f"{cls.__module__}.{cls.__qualname__}"))]
    for item in dataclasses.fields(cls):
        if not item.init:
            continue
        default = MISSING if item.default is dataclasses.MISSING else item.default
        own: Any = dataclasses.field(default=default)
        if item.default_factory is not dataclasses.MISSING:
            own = dataclasses.field(default_factory=item.default_factory)
        fields.append((item.name, hints[item.name], own))
    return dataclasses.make_dataclass(f"{cls.__name__}Conf", fields)


# Compose a configuration, and build the object of one option, as `depth-pruning grid` does.


def composed(words: Sequence[str]) -> Any:
    """The configuration that Hydra composes from these arguments; raises the errors of Hydra and OmegaConf."""
    register()
    add_hub_models(words)
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(groups.CONF), version_base="1.3"):
            return compose("config", list(words))
    finally:
        GlobalHydra.instance().hydra = running


def settings_of(config: Any, choices: Mapping[str, Any]) -> Any:
    """A composed configuration in the form that results record. Raises InputError if a value is missing."""
    try:
        return records.recorded(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        group = key.partition(".")[0]
        lacking = f"{group}={choices[group]} needs a value" if group in choices else f"{key} is missing"
        raise InputError(f"{lacking}: give {key}=...") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{first_line(error)}.") from error


def build_option(group: str, words: Sequence[str]) -> Any:
    """Build the object of a config group from arguments such as `model=local model.path=DIR`.

    Raises InputError if an option or a setting does not exist, a value is missing, or the constructor refuses a
    value.
    """
    check_words(words)
    check_choices(words)
    option = chosen_option(group, words)
    try:
        plain = settings_of(composed(words)[group], {group: option})
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
    check_settings({group: plain}, {group: option})
    return build(group, plain)


# Build objects from settings.


def build(group: str, settings: Any) -> Any:
    """Build the object that a group's settings describe; nested settings with a class become objects, too.

    Only classes of the group are built, and values are taken literally, so a record from a stranger cannot run other
    code. Raises InputError if the settings name no class of the group, or a class that refuses them.
    """
    settings = records.recorded(settings)
    if not isinstance(settings, Mapping) or records.CLASS not in settings:
        raise InputError(f"{group}={settings} names no class: choose an option, {group}=NAME.")
    return _built(group, settings)


def _built(group: str, settings: Any) -> Any:
    if isinstance(settings, list):
        return [_built(group, item) for item in settings]
    if not isinstance(settings, Mapping):
        return settings
    values = {key: _built(group, value) for key, value in settings.items() if key != records.CLASS}
    if records.CLASS not in settings:
        return values
    cls = groups.class_named(group, str(settings[records.CLASS]))
    try:
        return cls(**values)
    except PruningError:
        raise
    except Exception as error:  # a constructor can raise any error if a value has a wrong type
        raise InputError(f"settings of {group} do not fit {cls.__name__}: {first_line(error)}.") from error


# Check the settings of a configuration before anything is built: names must exist, and numbers must be finite.

HIGHEST = 2**63 - 1  # the largest whole number that torch, numpy and SLURM accept


def check_settings(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Raise InputError if a setting is unknown, a number is infinite, NaN or too large, or a string has `${`.

    `plain` is as results record it. Classes are looked up in their groups; no name in `plain` is imported.
    """
    # The launcher is not checked, because cells do not record it and its shell lines may contain `${HOME}`.
    records.check_literal({name: value for name, value in plain.items() if name != "launcher"})
    errors: list[PruningError] = [*_numbers(plain), *_names(plain, Config, "", choices)]
    if errors:
        raise merged_error(errors)


def _numbers(plain: Mapping[str, Any]) -> Iterator[InputError]:
    for path, value in records.leaves(plain):
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                yield InputError(f"{path}={number} is not a finite number: give one that is.")
            elif isinstance(number, int) and abs(number) > HIGHEST and not path.endswith("seed"):
                yield InputError(f"{path}={number} is out of range: choose at most {HIGHEST}.")


def _names(settings: Any, cls: Any, path: str, choices: Mapping[str, Any]) -> Iterator[InputError]:
    """Yield an InputError for each name, at any depth of `settings`, that is not a field of its class."""
    if not isinstance(settings, Mapping):
        return
    if records.CLASS in settings:
        cls = groups.class_named(path.partition(".")[0], str(settings[records.CLASS]))
    if not dataclasses.is_dataclass(cls):
        return
    known, hints = groups.class_settings(cls), get_type_hints(cls)
    for name, value in settings.items():
        here = f"{path}{name}"
        if name in known:
            yield from _names(value, hints.get(name), f"{here}.", choices)
        elif name != records.CLASS:
            yield unknown_setting(here, known, choices.get(here.partition(".")[0]))


# The command that repeats a recorded configuration: options, and settings that differ from the options' own.

GROUPS = ("model", "objective", "calibration", "algo", "compensation", "heal", "eval")
OTHERS = (
    *("ratio", "k", "unit", "budget", "latency", "protect", "racing", "near_ties", "seed", "max_evaluations"),
)
RESOURCES = "model.resources."  # left out: these settings only affect where a cell runs


def launch_words(config: Mapping[str, Any]) -> list[str]:
    """The arguments of `depth-pruning grid` that reproduce a recorded configuration, or some of its groups.

    Settings that do not affect the outcome of a cell are left out: folders, trackers, batch sizes. Raises InputError
    if a setting is not literal, because Hydra would interpret it.
    """
    records.check_literal(config)
    config = records.recorded(config)
    if config.get("heal", {}).get(records.CLASS) == records.NO_HEALING[records.CLASS]:
        config = {name: value for name, value in config.items() if name != "heal"}  # results omit it, too
    words = [f"{group}={_option(group, config[group])}" for group in GROUPS if group in config]
    if config.get("seed"):
        words.append(f"seed={config['seed']}")  # before `_plain`, because other settings refer to the seed
    # If `calibration=` is left out, the objective chooses the calibration.
    shorter = [word for word in words if not word.startswith("calibration=")]
    base = _plain(shorter)
    if "calibration" not in config or records.same_settings(base["calibration"], config["calibration"]):
        words = shorter
    else:
        base = _plain(words)
    wanted = {name: records.without_option(config[name]) for name in (*GROUPS, *OTHERS) if name in config}
    if wanted.get("k") is not None:
        wanted.pop("ratio", None)  # the ratio follows from k
    return [*words, *(w for w in _changes(wanted, base) if not w.startswith(RESOURCES))]


def _plain(words: Sequence[str]) -> dict[str, Any]:
    return dict(records.recorded(OmegaConf.to_container(composed(words), resolve=True)))


def _option(group: str, settings: Mapping[str, Any]) -> str:
    option = settings.get(records.OPTION)
    if option in groups.options(group) or (group == "model" and is_hub_name(option)):
        return str(option)
    usual = settings["source"] if group == "model" else groups.default_options().get(group)
    classes = groups.option_classes(group).items()
    fit = [name for name, cls in classes if cls.__name__ == settings[records.CLASS]]
    return usual if usual in fit else fit[0]


def _changes(wanted: Mapping[str, Any], base: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the arguments that change the settings `base` to `wanted`."""
    for key, value in wanted.items():
        if key == records.CLASS:
            if base.get(records.CLASS) != value:
                cls = groups.class_named(path.partition(".")[0], str(value))
                yield f"{path}{records.TARGET}={cls.__module__}.{cls.__qualname__}"
        elif key not in base:
            yield f"+{path}{key}={_hydra(value)}"
        elif isinstance(value, Mapping) and isinstance(base[key], Mapping):
            yield from _changes(value, base[key], f"{path}{key}.")
        elif base[key] != value or (path + key == "ratio" and value is not None):
            yield f"{path}{key}={_hydra(value)}"
    if path.startswith("eval."):  # the only group from which entries can be removed
        yield from (f"~{path}{key}" for key in base.keys() - wanted.keys() if isinstance(base[key], Mapping))


def _hydra(value: Any) -> str:
    """A value as it is written on Hydra's command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_/.][\w./:@+-]*", value) and value.lower() not in ("null", "true", "false"):
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)

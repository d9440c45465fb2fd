"""Check command-line arguments before Hydra reads them, and reword Hydra's errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig

from pruning.config import groups
from pruning.core.errors import InputError, PruningError, first_line, merged_error, near_names, unknown

# The settings that every cell has. `protect` is an empty group by default, so it is not in the file.
KEPT = {"protect"} | {
    setting.name.partition(".")[0]
    for setting in groups.settings_in((groups.CONF / "config.yaml").read_text(encoding="utf-8"))
}

SWEEP = {"-m", "--multirun"}
MAPPINGS = ("texts", "items", "templates")  # settings whose values are written in braces
TYPES = {
    "Float": "a number",
    "Integer": "a whole number, such as 1000000 instead of 1e6",
    "Boolean": "true or false",
    "String": "text",
}


def is_setting(word: str) -> bool:
    """Whether an argument sets, adds or removes a setting: `name=value`, `+name=value`, `~name`."""
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def names_folder(word: str) -> bool:
    """Whether an argument names a folder and not a setting, such as `results`, `~/results` or `./k=1`."""
    return "=" not in word or word.startswith(("/", "~", "."))


def results_of(words: Sequence[str], *known: str) -> tuple[Path, dict[str, str]]:
    """The results folder in a command's arguments (`results` if none is named), and the values of `known` settings.

    Raises InputError for any other argument.
    """
    check_line(words, places=True)
    folders = [word for word in words if names_folder(word)]
    given = dict(word.split("=", 1) for word in words if not names_folder(word))
    if len(folders) > 1 or given.keys() - {*known} or any(word.startswith("-") for word in folders):
        allowed = "".join(f" and {name}=VALUE" for name in known)
        raise InputError(f"{' '.join(words)}: give one folder of results{allowed}.")
    return Path(*folders or ["results"]).expanduser().resolve(), given


def ordered(words: Sequence[str]) -> list[str]:
    """The arguments, with settings before flags: Hydra rejects a command with settings before and after a flag."""
    return sorted(words, key=lambda word: not is_setting(word))


HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # OWNER/NAME


def is_hub_name(name: object) -> bool:
    """Whether a value of `model` is a name on the hub, OWNER/NAME, and not the path of a file or folder."""
    return isinstance(name, str) and bool(HUB.fullmatch(name)) and not Path(name).exists()


def hub_names(words: Sequence[str]) -> list[str]:
    """The names of models on the hub in arguments such as `model=smollm2,OWNER/NAME`."""
    values = (word.partition("=")[2].split(",") for word in words if word.startswith("model="))
    return [name for given in values for name in given if is_hub_name(name)]


def model_words(place: str) -> list[str]:
    """The arguments that choose a model. `place` is a path, a name on the hub, or an option of the group `model`.

    Raises InputError if there is no such model.
    """
    known = [name for name in groups.options("model") if name != "local"]
    if Path(place).expanduser().exists():
        return ["model=local", f"model.path={quoted(place)}"]
    if place in known or (is_hub_name(place) and not place.lower().endswith(".gguf")):
        return [f"model={place}"]
    raise InputError(
        f"there is no model '{place}': give a directory, a GGUF file, a name on the hub (OWNER/NAME), or one of "
        f"{', '.join(known)}."
    )


def quoted(value: str) -> str:
    """A string, quoted for Hydra's grammar, which reserves some characters."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Flags of Hydra whose value is the next argument.
OF_CFG = {"--resolve", "--package", "-p"}  # flags that only change what --cfg prints
VALUED = {"-c", "-p", "-cp", "-cn", "-cd", "-i", "-sc", "--cfg", "--package", "--info"}  # and --config-*


def check_line(words: Sequence[str], places: bool = False) -> None:
    """Raise InputError, whose text has a correction, if an argument is neither a setting nor a Hydra flag.

    With `places`, arguments that are not settings are allowed: the command takes them as places.
    """
    flags = [word.partition("=")[0] for word in words]
    odd = next((flag for flag in flags if flag in OF_CFG and not places), None)
    if odd is not None and not {"--cfg", "-c"} & {*flags}:
        raise InputError(
            f"{odd} only changes what --cfg prints, which is not given: add --cfg job, or omit {odd}."
        )
    known = {*groups.GROUPS, *KEPT}
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        name, _, value = word.lstrip("-").partition("=")
        if word.startswith("--") and name.partition(".")[0] in known:
            raise InputError(f"{word}: settings have no dashes. Write {name}={value or after or 'VALUE'}.")
        valued = before in VALUED or before.startswith("--config-")
        if valued or word.startswith("-") or (is_setting(word) and name):
            continue
        if spaced := re.search(r"(\S+)(?: = ?| ?= )(\S+)", " ".join((before, word, after, *words[-1:]))):
            raise InputError(f"{word}: there are spaces beside an =. Write {spaced[1]}={spaced[2]}.")
        if places:
            continue
        fitting = [group for group in groups.GROUPS if word in groups.options(group)] or ["NAME"]
        raise InputError(f"{word} is not a setting: write NAME=VALUE, such as {fitting[0]}={word}.")


def check_words(words: Sequence[str]) -> None:
    """Raise InputError, whose text shows the correct quotes, if Hydra cannot parse some settings."""
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
    cure = f"{name}=" + ",".join(map(quoted, parts))
    if not _reads(cure):
        return f"{wrong}. Write NAME=VALUE, and put the value in quotes within quotes: 'NAME=\"VALUE\"'."
    return f"{wrong}. Put the value in quotes within quotes: {shlex.quote(cure)}"


def check_choices(words: Sequence[str]) -> None:
    """Raise InputError if arguments choose an unknown option, or remove settings that every cell has."""
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
        if name in groups.GROUPS:
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
    """Yield an InputError for each of `values` that is not an option of the group."""
    known = groups.options(group)
    for value in values:
        name = value.text if isinstance(value, QuotedString) else value
        globbed = isinstance(name, Glob)  # a glob can only match options that exist
        several = group == "experiment" and not isinstance(name, str)  # none, or a list of experiments
        if globbed or several or name in known or (group == "model" and is_hub_name(name)):
            continue
        if group == "model" and isinstance(name, str) and Path(name).expanduser().exists():
            yield InputError(f"model={name} is a path: write model=local model.path={name}.")
        else:
            yield unknown(group, "null" if name is None else str(name), known)


def explained(error: Exception, words: Sequence[str]) -> InputError:
    """An InputError that explains an error of Hydra or OmegaConf in plain language."""
    cause, line = error.__cause__ or error, first_line(error)
    if match := re.match(r"Could not override '([^']+)'", str(error)):
        path, full = match[1], getattr(cause, "full_key", None) or match[1]
        if full != path and full.startswith(f"{path}."):  # a dictionary given as a whole, with a new entry
            entry = full[len(path) + 1 :]
            return InputError(f"{path} has no entry '{entry}': add it with '+{full}=...'.")
        parent = getattr(cause, "parent_node", None)
        known = map(str, parent.keys()) if isinstance(parent, DictConfig) else ()
        return unknown_setting(path, known, chosen_option(path.partition(".")[0], words))
    if match := re.match(r"Error merging override (.*)", line):
        wanted = re.search(r"could not be converted to (\w+)", str(cause))
        if wanted and wanted[1] in TYPES:
            several = re.fullmatch(r"(\S+)=(\d+)(?:\.+|-|:)(\d+)", match[1])
            cure = (
                f" For several values, write -m '{several[1]}=range({several[2]},{int(several[3]) + 1})'."
                if several
                else ""
            )
            return InputError(f"{match[1]} is not valid: give {TYPES[wanted[1]]}.{cure}")
        return InputError(f"{match[1]} is not valid ({first_line(cause)}).")
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", line):
        name, value = match.groups()
        return InputError(
            f"{name}={value} holds a comma. Add -m to run one cell for each value, write {name}=[{value}] for a "
            f"list, or quote a text that holds a comma: '{name}=\"{value}\"'."
        )
    return InputError(f"{' '.join(str(error).split())}.".replace("..", "."))


def chosen_option(group: str, words: Sequence[str]) -> str | None:
    """The option of a group that a command line chooses, or the default option."""
    for word in words:
        name, _, value = word.partition("=")
        if name.lstrip("+") == group and re.fullmatch(r"[\w./-]+", value):
            return value
    return groups.default_options().get(group)


def unknown_setting(path: str, known: Iterable[str], option: str | None) -> InputError:
    """An InputError for the unknown setting `path`. Its text has the `known` settings and options that have it."""
    parent, _, name = path.rpartition(".")
    group = path.partition(".")[0]
    names = sorted({*known} - {"_target_", "hydra"})
    if not parent:
        return InputError(
            f"unknown setting '{name}'.{near_names(name, names)} Available: {', '.join(names)}."
        )
    owner = f"{group}={option}" if option and parent == group else parent
    text = f"Its settings: {', '.join(names)}." if names else "It has no settings."
    classes = groups.option_classes(group) if group in groups.BUILT else {}
    found = [
        one
        for one, cls in classes.items()
        if one != option and path[len(group) + 1 :] in groups.class_settings(cls)
    ]
    if found:
        text += f" {path} is a setting of {', '.join(f'{group}={one}' for one in found)}."
    return InputError(f"{owner} has no setting '{name}'.{near_names(name, names)} {text}")

"""Say in plain words what is wrong with a setting that Hydra or OmegaConf refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from pruning.config.groups import BUILT, CONF, class_settings, members, options
from pruning.core.errors import InputError, first_line, near_names
from pruning.core.recorded import TARGET

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

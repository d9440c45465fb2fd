"""The groups of `conf/`: the options of each group, their descriptions, and the class of each option.

The files are read as text, without importing YAML or numpy, so `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pruning.core.errors import unknown

# The groups whose options configure a class.
BUILT = (
    *("model", "objective", "calibration", "algo", "compensation"),
    *("heal", "eval", "tracker", "launcher"),
)
GROUPS = (*BUILT, "experiment")  # an experiment chooses options of the other groups

# Groups whose classes are discovered: the group's package, and the method that identifies a class in it.
PACKAGES = {
    "algo": ("pruning.algo", "propose"),
    "objective": ("pruning.objective", "bind"),
    "calibration": ("pruning.calibration", "draw"),
    "eval": ("pruning.evaluation", "measure"),
}
# The classes of the other groups. A path is resolved when a configuration is read, so nothing is imported here.
NAMED = {
    "model": {"model": "pruning.models.handle:Model"},
    "compensation": {
        "none": "pruning.engine.compensation:NoCompensation",
        "magnitude": "pruning.engine.compensation:Magnitude",
        "linear": "pruning.engine.compensation:Linear",
    },
    "heal": {
        "none": "pruning.healing.heal_settings:NoHealing",
        "lora": "pruning.healing.heal_settings:Lora",
        "full": "pruning.healing.heal_settings:Full",
        "distill": "pruning.healing.heal_settings:Distill",
    },
    "launcher": {
        "local": "pruning.launcher:InProcess",
        "processes": "pruning.launcher.local:LocalPool",
        "slurm": "pruning.launcher.slurm:Slurm",
    },
    "tracker": {"none": "pruning.runs.cell:NoTracker", "mlflow": "pruning.tracking.store:MLflow"},
}


# The folder of the YAML files: beside the package in a checkout, inside the package if it is installed.
CONF = next(
    folder / "conf" for folder in Path(__file__).parents[1:3] if (folder / "conf" / "config.yaml").exists()
)


def options(group: str) -> list[str]:
    """The sorted names of a group's options, which `group=NAME` accepts."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def text_of(group: str, option: str) -> str:
    """The text of an option's file."""
    return (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")


def description(group: str, option: str) -> str:
    """The comment in the first line of an option's file; empty if the file does not begin with a comment."""
    lines = (line for line in text_of(group, option).splitlines() if not line.startswith("# @"))
    first = next(lines, "")
    return first.removeprefix("# ") if first.startswith("#") else ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting in a YAML file: its dotted name, its default as written in the file, and its comment."""

    name: str
    default: str
    comment: str


def settings_in(text: str, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings in the text of a YAML file, in order. Each setting must be on a line of its own."""
    parents: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"( *)(\w+):(?: +([^#\s].*?))?(?: +# (.*))?$", line):
            indent, name, value, comment = match.groups()
            parents[len(indent) // 2 :] = [name]
            if value is not None and parents[0] not in ("defaults", "hydra"):
                yield Setting(prefix + ".".join(parents), value, comment or "")


def default_options() -> dict[str, str]:
    """The default option of each group."""
    lines = (CONF / "config.yaml").read_text(encoding="utf-8").splitlines()
    matches = (re.match(r"  - (\w+): (\w+)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def option_classes(group: str) -> dict[str, Any]:
    """The class that each option of a group configures; the option's file names its schema."""
    classes, found = dict(members(group)), {}
    for name in options(group):
        if match := re.search(rf"/schema/{group}/(\w+)@_here_", text_of(group, name)):
            found[name] = classes[match[1]]
    return found


def members(group: str) -> Iterator[tuple[str, Any]]:
    """Yield (schema's name, class) for every class that an option of the group can configure."""
    from pruning.core.records import settings_classes  # imports numpy, which `--help` does not need

    if group in PACKAGES:
        yield from settings_classes(*PACKAGES[group])
    for name, path in NAMED.get(group, {}).items():
        yield name, resolve_name(path)


def class_settings(cls: Any) -> list[str]:
    """The names of the settings of a class."""
    return [item.name for item in dataclasses.fields(cls) if item.init]


@cache
def _by_name(group: str) -> dict[str, Any]:
    return {cls.__name__: cls for _, cls in members(group)}


def class_named(group: str, name: str) -> Any:
    """The class of a group with the name `name`. If there is none, raises InputError with similar names."""
    if name not in _by_name(group):
        raise unknown(f"class of {group}", name, _by_name(group))
    return _by_name(group)[name]

"""The groups of `conf/`: the options of each group, and the class that an option configures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import MISSING

from pruning.core.errors import unknown
from pruning.core.mask import Latency
from pruning.core.records import settings_classes
from pruning.routing.router_settings import RouterSettings, TaskStudy
from pruning.runs.cell import ForwardSettings, Protect
from pruning.search.choice import NearTies, Racing

# The groups whose options configure a class.
BUILT = (
    *("model", "objective", "calibration", "algo", "compensation"),
    *("heal", "eval", "tracker", "launcher"),
)
GROUPS = (*BUILT, "experiment")  # an experiment is a set of choices

# Groups with one class per file: the group's package, and a method that each class has. A new file adds a class.
PACKAGES = {
    "algo": ("pruning.algo", "propose"),
    "objective": ("pruning.objective", "bind"),
    "calibration": ("pruning.calibration", "draw"),
    "eval": ("pruning.evaluation", "measure"),
}
# The classes of the other groups. These paths are resolved when a configuration is read, so nothing is imported here.
NAMED = {
    "model": {"model": "pruning.models.model:Model"},
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
        "local": "pruning.launcher.local:InProcess",
        "processes": "pruning.launcher.local:LocalPool",
        "slurm": "pruning.launcher.slurm:Slurm",
    },
    "tracker": {
        "none": "pruning.runs.cell:NoTracker",
        "mlflow": "pruning.tracking.store:MLflow",
        "server": "pruning.tracking.mlflow_server:Server",
    },
}


# The folder of the YAML files: beside the package in a checkout, inside the package if it is installed.
CONF = next(
    folder / "conf" for folder in Path(__file__).parents[1:3] if (folder / "conf" / "config.yaml").exists()
)


def options(group: str) -> list[str]:
    """The names that `group=NAME` accepts, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def option_classes(group: str) -> dict[str, Any]:
    """The class that each option of a group configures, from the schema that its file names."""
    classes, found = dict(members(group)), {}
    for name in options(group):
        text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
        if match := re.search(rf"/schema/{group}/(\w+)@_here_", text):
            found[name] = classes[match[1]]
    return found


def members(group: str) -> Iterator[tuple[str, Any]]:
    """Yield (schema name, class) for every class that an option of the group can configure.

    In a group with packages, the schema has the name of the class: `OneShot` is /schema/algo/one_shot.
    """
    if group in PACKAGES:
        for _, cls in settings_classes(*PACKAGES[group]):
            yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(), cls
    for name, path in NAMED.get(group, {}).items():
        yield name, resolve_name(path)


def class_settings(cls: Any) -> list[str]:
    """The names of the settings of a class."""
    return [item.name for item in dataclasses.fields(cls) if item.init]


@cache
def _by_name(group: str) -> dict[str, Any]:
    return {cls.__name__: cls for _, cls in members(group)}


def class_named(group: str, name: str) -> Any:
    """The class with a recorded name. Raises InputError, with similar names, if the group has no such class."""
    if name not in _by_name(group):
        raise unknown(f"class of {group}", name, _by_name(group))
    return _by_name(group)[name]


# The types of the top level of a configuration.
#
# The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files, so a misspelt key fails
# while the configuration is composed. This module has the types of everything else.


@dataclasses.dataclass
class Paths:
    """Where results go; a relative path starts from the current folder."""

    results: str = "results"


@dataclasses.dataclass
class ScoreSettings:
    """Give `share=false` to time an algorithm: the cell then uses no losses that other cells computed."""

    share: bool = True


@dataclasses.dataclass
class Config:
    """The top level of a configuration. Each group is checked by the schema of its option."""

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
    forward: ForwardSettings = dataclasses.field(default_factory=ForwardSettings)
    racing: Racing = dataclasses.field(default_factory=Racing)
    near_ties: NearTies = dataclasses.field(default_factory=NearTies)
    scores: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
    tasks: TaskStudy = dataclasses.field(default_factory=TaskStudy)
    router: RouterSettings = dataclasses.field(default_factory=RouterSettings)

"""The groups of `conf/`: the options of each group, and the class that an option configures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pruning.calibration import kinds_for
from pruning.core.discovery import settings_classes
from pruning.core.errors import unknown

GROUPS = (
    "model",
    "objective",
    "calibration",
    "algo",
    "compensation",
    "heal",
    "eval",
    "tracker",
    "launcher",
    "experiment",
)
BUILT = GROUPS[:-1]  # an experiment is a set of choices, not a class

# Groups with one class per file: the group's package, and a method that each class has. A new file adds a class.
PACKAGES = {
    "algo": ("pruning.algo", "propose"),
    "objective": ("pruning.objective", "bind"),
    "calibration": ("pruning.calibration", "draw"),
    "eval": ("pruning.evaluation", "measure"),
}
# The classes of the other groups. These paths are resolved when a configuration is read, so nothing is imported here.
NAMED = {
    "model": {"model": "pruning.models.spec:Model"},
    "compensation": {
        "none": "pruning.engine.compensation:NoCompensation",
        "magnitude": "pruning.engine.compensation:Magnitude",
        "linear": "pruning.engine.map_settings:Linear",
        "diagonal": "pruning.engine.map_settings:Diagonal",
    },
    "heal": {
        "none": "pruning.healing.settings:NoHealing",
        "lora": "pruning.healing.settings:Lora",
        "full": "pruning.healing.settings:Full",
        "distill": "pruning.healing.settings:Distill",
    },
    "launcher": {
        "local": "pruning.launcher.local:InProcess",
        "processes": "pruning.launcher.local_pool:LocalPool",
        "slurm": "pruning.launcher.slurm:Slurm",
    },
    "tracker": {
        "none": "pruning.runs.tracker:NoTracker",
        "mlflow": "pruning.tracking.mlflow_file:MLflow",
        "server": "pruning.tracking.mlflow_server:Server",
    },
}


def conf_folder() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside the package if it is installed."""
    package = Path(__file__).parents[1]
    return next(
        folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").exists()
    )


CONF = conf_folder()


def options(group: str) -> list[str]:
    """The names that `group=NAME` accepts, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def members(group: str) -> Iterator[tuple[str, Any]]:
    """Yield (schema name, class) for every class that an option of the group can configure."""
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
    """The class with a recorded name. Raises InputError, with similar names, if the group has no such class."""
    if name not in _by_name(group):
        raise unknown(f"class of {group}", name, _by_name(group))
    return _by_name(group)[name]


def calibrations(kind: str) -> list[str]:
    """The options of `calibration` that draw samples of this kind; "any" means text or items."""
    schemas = [
        f"/schema/calibration/{name}@" for name, cls in members("calibration") if cls.kind in kinds_for(kind)
    ]
    texts = {name: (CONF / "calibration" / f"{name}.yaml").read_text() for name in options("calibration")}
    return [name for name, text in texts.items() if any(schema in text for schema in schemas)]

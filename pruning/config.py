"""The configuration: its types, where Hydra finds them, and which options there are.

The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files: a typo in a key,
on the command line or in a file, fails while the configuration is composed.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

import pruning.algo
import pruning.calibration
import pruning.evaluation
import pruning.objective
import pruning.track
import pruning.track_server
from pruning import compensation, models
from pruning.cell import ForwardSettings
from pruning.errors import InputError
from pruning.launcher import local, processes, slurm
from pruning.racing import Racing

CONF = Path(__file__).parent.parent / "conf"
GROUPS = (
    "model",
    "objective",
    "calibration",
    "algo",
    "compensation",
    "eval",
    "tracker",
    "launcher",
    "experiment",
)


@dataclasses.dataclass
class Paths:
    """Where results go; relative to the folder in which the command is given."""

    results: str = "results"


@dataclasses.dataclass
class ProtectSettings:
    """How many blocks at either end may not be removed."""

    first: int = 0
    last: int = 0


@dataclasses.dataclass
class ScoreSettings:
    """`share=false` times an algorithm alone: losses that other cells paid for are not used."""

    share: bool = True


@dataclasses.dataclass
class Config:
    """The top level. Groups are checked by the schemas of their own options."""

    model: Any = MISSING
    objective: Any = MISSING
    calibration: Any = MISSING
    algo: Any = MISSING
    compensation: Any = MISSING
    eval: Any = MISSING
    tracker: Any = MISSING
    launcher: Any = MISSING
    ratio: float | None = None
    k: int | None = None
    seed: int = 0
    protect: ProtectSettings = dataclasses.field(default_factory=ProtectSettings)
    export: str | None = None
    study: str = "default"
    paths: Paths = dataclasses.field(default_factory=Paths)
    forward: ForwardSettings = dataclasses.field(default_factory=ForwardSettings)
    racing: Racing = dataclasses.field(default_factory=Racing)
    scores: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)


def register() -> None:
    """Tell Hydra the schemas and resolvers. Called once, before Hydra reads the configuration.

    Raises InputError for two classes of one name in a group: cells and scores are known by the name of a class, so
    two objectives of one name would take each other's losses for their own.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    classes: dict[tuple[str, str], str] = {}
    for group, name, cls in _members():
        if (other := classes.setdefault((group, cls.__name__), name)) != name:
            raise InputError(
                f"{other}.py and {name}.py of pruning/{group} both define a class {cls.__name__}: rename one, "
                "since scores and cells are known by that name."
            )
        store.store(group=f"schema/{group}", name=name, node=schema(cls))
    OmegaConf.register_new_resolver("unless", _unless, replace=True)
    OmegaConf.register_new_resolver("options", lambda group: ", ".join(options(group)), replace=True)


def schema(cls: type) -> type:
    """A dataclass with the fields of `cls` and the `_target_` from which Hydra builds it."""
    hints = get_type_hints(cls)
    fields: list[Any] = [("_target_", str, dataclasses.field(default=f"{cls.__module__}.{cls.__qualname__}"))]
    for item in dataclasses.fields(cls):
        if item.default_factory is not dataclasses.MISSING:
            default: Any = dataclasses.field(default_factory=item.default_factory)
        else:
            default = dataclasses.field(
                default=MISSING if item.default is dataclasses.MISSING else item.default
            )
        if item.init:
            fields.append((item.name, hints[item.name], default))
    return dataclasses.make_dataclass(f"{cls.__name__}Conf", fields)


def options(group: str) -> list[str]:
    """The names that `group=NAME` accepts."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def calibrations(kind: str) -> list[str]:
    """The options of `calibration` that give samples of a kind, or of "any" kind that one objective can read."""
    wanted = ("text", "items") if kind == "any" else (kind,)
    kinds = {name: cls.kind for name, cls in _classes(pruning.calibration, "draw")}
    schemas = [f"/schema/calibration/{name}@" for name in kinds if kinds[name] in wanted]
    texts = {name: (CONF / "calibration" / f"{name}.yaml").read_text() for name in options("calibration")}
    return [name for name, text in texts.items() if any(schema in text for schema in schemas)]


def _unless(value: Any, other: Any) -> Any:
    """`${unless:${k},0.2}`: 0.2, unless k is given."""
    return other if value is None else None


def _members() -> Iterator[tuple[str, str, type]]:
    """Group, name and class of everything that a YAML file can configure."""
    for group, package, method in (
        ("algo", pruning.algo, "propose"),
        ("objective", pruning.objective, "bind"),
        ("calibration", pruning.calibration, "draw"),
        ("eval", pruning.evaluation, "measure"),
    ):
        for name, cls in _classes(package, method):
            yield group, name, cls
    yield "model", "model", models.Model
    yield "compensation", "none", compensation.Nothing
    yield "compensation", "magnitude", compensation.Magnitude
    yield "launcher", "local", local.Local
    yield "launcher", "processes", processes.Processes
    yield "launcher", "slurm", slurm.Slurm
    yield "tracker", "none", pruning.track.Nothing
    yield "tracker", "mlflow", pruning.track.MLflow
    yield "tracker", "server", pruning.track_server.Server


def _classes(package: ModuleType, method: str) -> Iterator[tuple[str, Any]]:
    """Module name and class of each dataclass in a package that has a method: one a file."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls) and hasattr(cls, method):
                yield found.name, cls

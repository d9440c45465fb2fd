"""The configuration of a study: the settings that all its cells share, and the settings that vary between cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.core.nested import leaves
from pruning.core.recorded import CLASS, OPTION
from pruning.core.result import Result

from .study_data import StudyData

# The page does not show these settings. They determine where and how a study runs.
LEFT_OUT = ("paths.", "tracker", "launcher", "study")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration, its values, and the number of cells with each value."""

    name: str
    values: list[tuple[str, int]]


def settings(m: StudyData) -> tuple[list[Setting], list[Setting]]:
    """Settings that vary, and settings that all cells share. Both lists are in the order of the configuration."""
    configs = [dict(_flat(record["config"])) for record in m.records.values()]
    names = list(dict.fromkeys(name for config in configs for name in config))
    every = [
        Setting(name, _counted([config[name] for config in configs if name in config])) for name in names
    ]
    varied = [s for s in every if len(s.values) > 1]
    # A setting that only some cells have (say, an option of one search) counts as shared if its value never varies.
    return varied, [s for s in every if len(s.values) == 1]


def environments(m: StudyData) -> list[Setting]:
    """Commit, device and package versions of the cells."""
    every = [dict(_environment(record)) for record in m.records.values()]
    names = list(dict.fromkeys(name for environment in every for name in environment))
    return [
        Setting(name, _counted([environment[name] for environment in every if name in environment]))
        for name in names
    ]


def _environment(record: Result) -> Iterator[tuple[str, str]]:
    given = record["environment"]
    yield "commit", _shown(given["commit"])
    yield "device", _shown(given["device"])
    if "cpus" in given:
        yield "cpus", _shown(given["cpus"])
    yield from ((name, _shown(version)) for name, version in given["packages"].items())


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings by name. The class of a config group is listed under the name of the group, as in `algo = Beam`."""
    for name, value in leaves(config):
        if not name.startswith(LEFT_OUT) and not name.endswith(f".{OPTION}"):
            yield name.removesuffix(f".{CLASS}"), _shown(value)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _counted(values: Sequence[str]) -> list[tuple[str, int]]:
    return [(value, values.count(value)) for value in dict.fromkeys(values)]

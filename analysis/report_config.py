"""The configuration of a study: what all its cells share, and what varies between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report_material import Material, Record

# Where and how a study runs is no part of what was studied.
LEFT_OUT = ("paths.", "tracker", "launcher", "study")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration with its values and the number of cells that have each."""

    name: str
    values: list[tuple[str, int]]


def settings(m: Material) -> tuple[list[Setting], list[Setting]]:
    """Settings that vary, and settings that all cells share, each in the order of the configuration."""
    configs = [dict(_flat(record["config"])) for record in m.records.values()]
    names = list(dict.fromkeys(name for config in configs for name in config))
    found = [
        Setting(name, _counted([config[name] for config in configs if name in config])) for name in names
    ]
    varied = [s for s in found if len(s.values) > 1]
    # A setting that only some cells have belongs to one option, such as the trials of one search.
    return varied, [s for s in found if len(s.values) == 1]


def environments(m: Material) -> list[Setting]:
    """Commit, device and package versions of the cells."""
    every = [dict(_environment(record)) for record in m.records.values()]
    names = list(dict.fromkeys(name for one in every for name in one))
    return [Setting(name, _counted([one[name] for one in every if name in one])) for name in names]


def _environment(record: Record) -> Iterator[tuple[str, str]]:
    given = record.get("environment") or {}
    yield from ((name, _shown(given[name])) for name in ("commit", "device", "cpus") if name in given)
    yield from ((name, _shown(value)) for name, value in (given.get("packages") or {}).items())


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name.startswith(LEFT_OUT):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name.removesuffix("._target_"), _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    # The class that a setting builds, such as pruning.algo.beam.Beam, is known by its file's name.
    parts = text.split(".")
    return parts[-2 if len(parts) > 3 else -1] if parts[0] == "pruning" and len(parts) > 2 else text


def _counted(values: Sequence[str]) -> list[tuple[str, int]]:
    return [(value, values.count(value)) for value in dict.fromkeys(values)]

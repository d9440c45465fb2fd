"""The command that runs a recorded configuration again: option names and the settings that differ from theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pruning.config import CONF, options, register

GROUPS = ("model", "objective", "calibration", "algo", "compensation", "eval")
OTHERS = ("ratio", "k", "protect", "racing", "seed")
NOWHERE = "model.resources."  # where a cell runs is no part of it


def launch_words(config: Mapping[str, Any]) -> list[str]:
    """The words behind `python launch.py` for a recorded configuration, or for some of its groups.

    What does not decide the outcome of a cell is left out: folders, trackers, batch sizes.
    """
    words = [f"{group}={_option(group, config[group])}" for group in GROUPS if group in config]
    if config.get("seed"):
        words.append(f"seed={config['seed']}")  # first, since other settings follow it
    shorter = [word for word in words if not word.startswith("calibration=")]  # the objective chooses one
    base = _plain(shorter)
    if base["calibration"] == config.get("calibration", base["calibration"]):
        words = shorter
    else:
        base = _plain(words)
    wanted = {name: config[name] for name in (*GROUPS, *OTHERS) if name in config}
    if wanted.get("k") is not None:
        wanted.pop("ratio", None)  # follows from k
    return [*words, *(w for w in _changes(wanted, base) if not w.startswith(NOWHERE))]


def composed(words: Sequence[str]) -> Any:
    """The configuration (an OmegaConf) that a launch with these words would have; works within a launch too.

    Raises what Hydra and OmegaConf raise for words that make no sense.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", list(words))
    finally:
        GlobalHydra.instance().hydra = running


def _plain(words: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(composed(words), resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _option(group: str, recorded: Mapping[str, Any]) -> str:
    """The option of a group that comes nearest to recorded settings."""

    def distance(name: str) -> tuple[bool, int, int]:
        content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
        defaults = content.pop("defaults", [])
        values = [item for item in content.items() if not str(item[1]).startswith(("???", "${"))]
        wrong = sum(recorded.get(key) != value for key, value in values)
        return _target(group, defaults) != recorded.get("_target_"), wrong, wrong - len(values)

    return min(options(group), key=distance)


def _target(group: str, defaults: list[Any]) -> str | None:
    """The class that an option configures, by the schema that it names."""
    from hydra.core.config_store import ConfigStore

    register()
    for entry in defaults:
        if isinstance(entry, str) and (found := re.match(rf"/schema/{group}/(\w+)@", entry)):
            node = ConfigStore.instance().load(f"schema/{group}/{found[1]}.yaml").node
            return str(node._target_)
    return None


def _changes(wanted: Mapping[str, Any], base: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The words that make `wanted` of the settings in `base`."""
    for key, value in wanted.items():
        if key not in base:
            yield f"+{path}{key}={_hydra(value)}"
        elif isinstance(value, Mapping) and isinstance(base[key], Mapping):
            yield from _changes(value, base[key], f"{path}{key}.")
        elif base[key] != value or (path + key == "ratio" and value is not None):
            yield f"{path}{key}={_hydra(value)}"
    if path.startswith("eval."):  # where entries can be taken away
        yield from (f"~{path}{key}" for key in base.keys() - wanted.keys() if isinstance(base[key], Mapping))


def _hydra(value: Any) -> str:
    """A value in the grammar of Hydra's command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/.][\w./:@+-]*", value) and value.lower() not in (
            "null",
            "true",
            "false",
        )
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)

"""Configurations as results record them: a class by its name, not by the module that it lives in.

Hydra needs `_target_: pruning.algo.greedy.Greedy`. A result that held this would be lost as soon as the class moves.
So results hold `class: Greedy` and the name of the option, `option: greedy`. Results written before this form existed
hold `_target_`; `recorded` reads both forms into the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET, CLASS, OPTION = "_target_", "class", "option"

# Classes that were renamed, by the import path that older results hold.
RENAMED = {
    "pruning.compensation.Nothing": "NoCompensation",
    "pruning.track.Nothing": "NoTracker",
    "pruning.evaluation.perplexity.Perplexity": "CorpusPerplexity",
    "pruning.evaluation.local.Local": "LocalFiles",
    "pruning.launcher.local.Local": "InProcess",
    "pruning.launcher.processes.Processes": "LocalPool",
}


def recorded(settings: Any) -> Any:
    """Settings with each `_target_`, at any depth, replaced by the name of its class.

    Settings that are in the recorded form already stay as they are.
    """
    if isinstance(settings, Mapping):
        return dict(_item(str(key), value) for key, value in settings.items())
    if isinstance(settings, list | tuple):
        return [recorded(one) for one in settings]
    return settings


def _item(key: str, value: Any) -> tuple[str, Any]:
    if key == TARGET and isinstance(value, str):
        return CLASS, RENAMED.get(value, value.rpartition(".")[2])
    return key, recorded(value)


def without_option(settings: Any) -> Any:
    """Recorded settings without the name of the option that they came from: what decides an outcome."""
    if isinstance(settings, Mapping):
        return {key: value for key, value in settings.items() if key != OPTION}
    return settings


def same_settings(first: Any, second: Any) -> bool:
    """Whether two settings of a group, in either form, are the same whatever their option is called."""
    return bool(without_option(recorded(first)) == without_option(recorded(second)))

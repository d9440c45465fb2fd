"""Configurations in the form that results record: with the name of each class, without its module.

Hydra needs `_target_: pruning.algo.greedy.Greedy`. If the class later moves, a result with this path matches no
configuration. So results hold `class: Greedy` and the name of the option, `option: greedy`. Older results hold
`_target_`; `recorded` converts both forms to the recorded form.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pruning.core.errors import DamagedError, InputError
from pruning.core.nested import texts

TARGET, CLASS, OPTION = "_target_", "class", "option"

# Classes that were renamed: the import path in older results, and the name today.
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

    Settings that are already in the recorded form are unchanged.
    """
    if isinstance(settings, Mapping):
        return dict(_item(str(key), value) for key, value in settings.items())
    if isinstance(settings, list | tuple):
        return [recorded(item) for item in settings]
    return settings


def _item(key: str, value: Any) -> tuple[str, Any]:
    if key == TARGET and isinstance(value, str):
        return CLASS, RENAMED.get(value, value.rpartition(".")[2])
    return key, recorded(value)


def check_literal(settings: Any, where: str = "") -> None:
    """Raise InputError, which starts with `where`, if a text holds `${`, because OmegaConf would evaluate it.

    An expression can call functions and read the environment, and a record can come from somebody else.
    """
    for name, text in texts(settings):
        if "${" in text:
            raise InputError(
                f"{where}{name}={text} holds '${{', and recorded settings are literal: give the value itself, or "
                "rename the file or folder."
            )


def check_inside(path: Any, where: str) -> None:
    """Raise DamagedError, which starts with `where`, unless a recorded path leads into the folder of its record."""
    inside = isinstance(path, str) and not PurePosixPath(path).is_absolute()
    if not inside or ".." in PurePosixPath(path).parts or not PurePosixPath(path).parts:
        raise DamagedError(f"{where} names the path {path!r}, which leads out of the results folder.")


def outward(config: Mapping[str, Any]) -> dict[str, str]:
    """The recorded settings, by name, that decide where this machine would write or send something.

    A results folder can come from somebody else, so a command uses these settings only if its words, or the
    environment variable MLFLOW_TRACKING_URI, give them too.
    """
    places = {"export": config.get("export")}
    for group, name in (("tracker", "uri"), ("model", "offload")):
        settings = config.get(group)
        places[f"{group}.{name}"] = settings.get(name) if isinstance(settings, Mapping) else None
    if places["tracker.uri"] == os.environ.get("MLFLOW_TRACKING_URI"):
        del places["tracker.uri"]
    return {name: str(value) for name, value in places.items() if value is not None}


def without_option(settings: Any) -> Any:
    """Recorded settings without the name of their option, because that name does not affect a result."""
    if isinstance(settings, Mapping):
        return {key: value for key, value in settings.items() if key != OPTION}
    return settings


def same_settings(first: Any, second: Any) -> bool:
    """Whether two settings of one group are equal, apart from the names of their options.

    Each can be in the recorded form or in Hydra's form. A setting that is null equals one that is absent, because
    results of earlier versions lack settings that were added since.
    """
    return bool(_given(recorded(first)) == _given(recorded(second)))


def _given(settings: Any) -> Any:
    """The settings that have a value, without the name of the option."""
    known = without_option(settings)
    return {key: v for key, v in known.items() if v is not None} if isinstance(known, Mapping) else known

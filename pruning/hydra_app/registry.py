"""Register the schema of every option with Hydra.

The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files: a misspelt key,
on the command line or in a file, fails while the configuration is composed.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from pruning.config.groups import BUILT, members, options
from pruning.config.schema import Config
from pruning.core.errors import InputError


@cache
def register() -> None:
    """Register schemas and resolvers, once in a process; call this before Hydra reads the configuration.

    Raises InputError if two classes of a group have the same name: class names identify cells and scores, so two
    objectives with the same name would use each other's losses.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group in BUILT:
        modules: dict[str, str] = {}
        for name, cls in members(group):
            if (other := modules.setdefault(cls.__name__, name)) != name:
                raise InputError(
                    f"{other}.py and {name}.py of pruning/{group} both define a class {cls.__name__}: rename one, "
                    "because scores and cells are identified by that name."
                )
            store.store(group=f"schema/{group}", name=name, node=schema(cls))
    OmegaConf.register_new_resolver("unless", _unless, replace=True)
    OmegaConf.register_new_resolver("options", lambda group: ", ".join(options(group)), replace=True)


@cache
def schema(cls: type) -> type:
    """A dataclass with the fields of `cls`, and with a `_target_` so that Hydra builds a `cls`."""
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


def _unless(value: Any, other: Any) -> Any:
    """`${unless:${k},0.2}`: 0.2 if k is null, else null."""
    return other if value is None else None

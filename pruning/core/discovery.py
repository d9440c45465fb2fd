"""Find the classes that settings can choose: the dataclasses of a package that have a given method."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator


def settings_classes(package: str, method: str) -> Iterator[tuple[str, type]]:
    """Yield (module name, class) for each dataclass with the method `method` in a package's modules.

    Private modules (such as `_prior`) are searched too. A class is yielded only for the module that defines it, not
    for a module that imports it.
    """
    path = importlib.import_module(package).__path__
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls) and hasattr(cls, method):
                yield info.name, cls

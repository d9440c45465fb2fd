"""Figures and tables. A file `figN_NAME.py` is the command `figN`, and if it has a caption, a part of the report."""

import pkgutil


def names() -> list[str]:
    """The modules of the figures, by number."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("fig")]
    return sorted(found, key=lambda name: int(name[3:].partition("_")[0]))

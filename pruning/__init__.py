"""Depth pruning of language models: which blocks can be removed, and at what cost.

The names below are the Python interface; `docs/python.md` shows how to use each. A name is imported when it is first
used, so that `import pruning` needs neither torch nor Hydra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruning.core import VERSION

if TYPE_CHECKING:
    from pruning.api.calibration_data import embedded_texts as embedded_texts
    from pruning.api.changes import export_model as export_model
    from pruning.api.changes import heal_mask as heal_mask
    from pruning.api.changes import repair_mask as repair_mask
    from pruning.api.model import PrunableModel as PrunableModel
    from pruning.api.model import load_model as load_model
    from pruning.api.model import wrap_model as wrap_model
    from pruning.api.router import Router as Router
    from pruning.api.router import fit_router as fit_router
    from pruning.api.search import Measurements as Measurements
    from pruning.api.search import SearchResult as SearchResult
    from pruning.api.search import measure_mask as measure_mask
    from pruning.api.search import search_mask as search_mask
    from pruning.calibration.item_files import Item as Item
    from pruning.core.errors import InputError as InputError
    from pruning.core.errors import PruningError as PruningError
    from pruning.core.mask import Mask as Mask
    from pruning.core.mask import Space as Space

__version__ = VERSION

_HOMES = {
    "embedded_texts": "pruning.api.calibration_data",
    "export_model": "pruning.api.changes",
    "heal_mask": "pruning.api.changes",
    "Measurements": "pruning.api.search",
    "measure_mask": "pruning.api.search",
    "PrunableModel": "pruning.api.model",
    "load_model": "pruning.api.model",
    "wrap_model": "pruning.api.model",
    "repair_mask": "pruning.api.changes",
    "Router": "pruning.api.router",
    "fit_router": "pruning.api.router",
    "SearchResult": "pruning.api.search",
    "search_mask": "pruning.api.search",
    "Item": "pruning.calibration.item_files",
    "InputError": "pruning.core.errors",
    "PruningError": "pruning.core.errors",
    "Mask": "pruning.core.mask",
    "Space": "pruning.core.mask",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pruning' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

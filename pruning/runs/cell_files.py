"""Write the files in a cell's folder. If there are several ranks, only the first rank writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pruning.core import atomic_files
from pruning.core.mask import Mask
from pruning.core.result import MASK, Result, write_result
from pruning.distributed import collectives
from pruning.runs.cell import Cell


def save_config(cell: Cell, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`: the configuration, in which options and classes are names."""
    if collectives.is_first():
        atomic_files.write_text(cell.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def save_mask(cell: Cell, mask: Mask) -> None:
    """Write `mask.json`."""
    if collectives.is_first():
        atomic_files.write_json(cell.folder / MASK, mask.to_json())


def save_result(cell: Cell, result: Result) -> None:
    """Write `result.json`, which records that the cell has ended."""
    if collectives.is_first():
        write_result(cell.folder, result)

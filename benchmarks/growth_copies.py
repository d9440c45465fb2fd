"""Write a large study of sub-layers or of healing: copies of archived cells, with other draws and masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from analysis.data.unpack import unpack
from pruning.core.heal_record import FOLDER
from pruning.core.mask import Mask
from pruning.core.result import NAME

ROOT = Path(__file__).parents[1]


def write(results: Path, study: str, cells: int) -> None:
    """Fill a results folder with at least the cells of an archived study, and copies of them up to `cells`.

    Each copy is another draw, and its mask is moved by some blocks. So there are as many distinct masks as a model
    has blocks, times those of the study. Measurements are those of the cell that was copied.
    """
    unpack(ROOT / "analysis" / study / f"{study}.tar.xz", results)
    originals = sorted(path.parent for path in results.glob(f"*/{NAME}"))
    for number in range(cells - len(originals)):
        _copy(originals[number % len(originals)], 1 + number // len(originals))


def _copy(cell: Path, number: int) -> None:
    result: dict[str, Any] = json.loads((cell / NAME).read_text(encoding="utf-8"))
    start, _, digest = cell.name.rpartition("-")
    copy = cell.parent / f"{start}-{(int(digest, 16) + number) % 16**8:08x}"
    result["cell"] = copy.name
    for seeded in (result["config"], result["config"]["calibration"], result["calibration"]):
        seeded["seed"] += number
    mask = Mask.from_json(result["mask"])
    step = number * mask.n_units // mask.n_blocks
    moved = tuple((unit + step) % mask.n_units for unit in mask.dropped)
    result["mask"] = Mask(mask.n_blocks, moved, mask.unit).to_json()
    copy.mkdir()
    (copy / NAME).write_text(json.dumps(result), encoding="utf-8")
    if (cell / FOLDER).exists():
        shutil.copytree(cell / FOLDER, copy / FOLDER)

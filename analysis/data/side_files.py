"""The files beside the results that figures also read: terms of measurements, healings, routing between sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pruning.core.atomic_files import read_json
from pruning.core.continuation_record import ENDING
from pruning.core.errors import DamagedError
from pruning.core.heal_record import EVALUATION, FOLDER, RECORD
from pruning.core.result import NAME, TERMS
from pruning.healing import curve

# A record names a measurement by its path, such as "evaluation/ppl-heldout-2c92f300/af51004c7b7a339c.json".
MEASURED = re.compile(rb'"(evaluation/[^"]+)\.json"')
HEALING = (RECORD, curve.NAME, EVALUATION)
ROUTING = "routing/*/routing.json"


def side_files(root: Path, cell: str) -> Iterator[Path]:
    """The files beside a cell's result, those of its healings, and the terms of its measurements, if they exist."""
    healings = sorted((root / cell / FOLDER).glob("*"))
    own = [folder / name for folder in healings for name in HEALING]
    records = [root / cell / NAME, *(folder / EVALUATION for folder in healings)]
    known = [record.read_bytes() for record in records if record.exists()]
    measured = {path.decode() for content in known for path in MEASURED.findall(content)}
    own += [root / f"{path}.{ending}" for path in sorted(measured) for ending in (TERMS, ENDING)]
    yield from (path for path in own if path.exists())


def damaged(root: Path, cells: Iterable[str]) -> list[str]:
    """A text for each of these files, and for each record of routing, that cannot be read."""
    paths = {path for cell in cells for path in side_files(root, cell)}
    return [text for path in sorted({*paths, *root.glob(ROUTING)}) if (text := _damage(path, root))]


def _damage(path: Path, root: Path) -> str:
    try:
        if path.name == curve.NAME:
            curve.read(path)
        else:
            read_json(path)
    except (DamagedError, json.JSONDecodeError, UnicodeDecodeError):
        return f"{path.relative_to(root)} is damaged"
    except OSError as error:
        return f"{path.relative_to(root)} cannot be read ({error.strerror})"
    return ""

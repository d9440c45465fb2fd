"""The names that an archive may hold: the files of a results folder that are data.

Everything else is refused, above all `code/` (jobs run it) and `jobs/` (it holds pickles, which can run anything).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pruning.core import trace
from pruning.core.result import NAME

CELL = (NAME, "config.yaml", "mask.json", trace.NAME, trace.FLOAT32, trace.BOUNDS, "gates.json")
HEALED = (
    "heal.json",
    "heal.jsonl",
    "evaluation.json",
)  # of a healing; its weights are too large for an archive
MANIFEST = "manifest.json"  # the digests of an archive's files; it is its last entry and is not unpacked
PRIVATE = ".lm_eval.json"  # lm-eval's own record; it can hold paths of the machine

# The folders of a results folder that are not cells.
_FOLDERS = {
    "calibration", "code", "evaluation", "figures", "jobs", "mlflow-artifacts", "multirun", "routing", "scores",
    "studies",
}  # fmt: skip
_PART = re.compile(r"[\w.+-]+")


def is_data(name: str) -> bool:
    """Whether a path relative to a results folder is that of a data file of a study."""
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or not all(_PART.fullmatch(part) and set(part) != {"."} for part in parts):
        return False
    match parts:
        case ("studies", file):
            return file.endswith(".json")
        case ("calibration", file):
            return file.endswith(".jsonl")
        case ("scores", _, _):
            return True
        case ("evaluation", _, file):
            return file.endswith(".json") and not file.endswith(PRIVATE)
        case (cell, file):
            return cell not in _FOLDERS and file in CELL
        case ("routing", _, file):
            return file == "routing.json"
        case (cell, "healed", file):
            return cell not in _FOLDERS and file.startswith(("rates-", "trials-")) and file.endswith(".jsonl")
        case (cell, "healed", _, file):
            return cell not in _FOLDERS and file in HEALED
        case (cell, "healed", candidate, _, file):
            return cell not in _FOLDERS and candidate.startswith("mask-") and file in HEALED
    return False


def written_last(name: str) -> tuple[int, str]:
    """A sort key that puts results after the other files, and studies after results.

    A result says that its cell is finished, so the cell's other files must be there before it.
    """
    return (2 if name.startswith("studies/") else int(name.endswith(f"/{NAME}"))), name

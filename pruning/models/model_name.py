"""The name of a model in a directory: a legal part of a folder name, made from the path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LONGEST = (
    40  # characters of up to 4 bytes; a cell's key adds about 60, and a folder name has at most 255 bytes
)


def location(path: str, gguf_file: str | None) -> Path:
    """The absolute path of a model's directory, or of its GGUF file if one is named."""
    folder = Path(path).expanduser().resolve()
    return folder if gguf_file is None else folder / gguf_file


def directory_name(place: Path, parts: int = 1) -> str:
    """A name made from the last `parts` parts of a path, for example `base` or `runs-base`."""
    last = place.with_suffix("") if place.suffix.lower() == ".gguf" else place
    text = "-".join(part for part in last.parts[-parts:] if part != last.anchor)
    return re.sub(r"[^\w.+-]", "_", text).lstrip(".")[-LONGEST:] or "local"


def distinct_names(places: Sequence[Path]) -> list[str]:
    """A different name for each of some different paths: as few of the last parts of all paths as possible."""
    deepest = max(len(place.parts) for place in places)
    for parts in range(1, deepest + 1):
        names = [directory_name(place, parts) for place in places]
        if len(set(names)) == len(names):
            return names
    return [f"{directory_name(place)}-{number}" for number, place in enumerate(places, start=1)]

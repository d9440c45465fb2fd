"""Change or damage files, as a person or a fault may, and read all files of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_json(path: Path, change: Callable[[Any], object] | None = None, **values: Any) -> None:
    """Change a JSON file in place: `change` edits its data, and `values` replace entries of its first level."""
    data = json.loads(path.read_text())
    if change is not None:
        change(data)
    path.write_text(json.dumps(data | values if values else data))


def edit_config(folder: Path, **values: Any) -> None:
    edit_json(folder / "config.json", **values)


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_instead(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def content(data: bytes) -> Callable[[Path], None]:
    """A function that writes `data` to a file."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def tree(folder: Path) -> dict[str, bytes | str]:
    """The contents of all files below a folder, and the targets of all links, by path; includes hidden ones."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }

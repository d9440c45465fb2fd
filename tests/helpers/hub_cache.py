"""Make a cache of the hub with one repository, in the layout of huggingface_hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def cached(
    folder: Path, patch: pytest.MonkeyPatch, name: str, files: Mapping[str, bytes], commit: str
) -> Path:
    """Write a repository's files to a new cache, and let huggingface_hub use this cache; returns their folder."""
    cache = folder / "hub" / f"models--{name.replace('/', '--')}"
    (snapshot := cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for file, content in files.items():
        (snapshot / file).write_bytes(content)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    return snapshot

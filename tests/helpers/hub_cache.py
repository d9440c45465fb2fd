"""A cache of the hub with one repository, as huggingface_hub lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def cached(
    folder: Path, patch: pytest.MonkeyPatch, name: str, files: Mapping[str, bytes], commit: str
) -> Path:
    """Put files of a repository into a new cache, which is used from now on; returns their folder."""
    cache = folder / "hub" / f"models--{name.replace('/', '--')}"
    (snapshot := cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for file, content in files.items():
        (snapshot / file).write_bytes(content)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    return snapshot

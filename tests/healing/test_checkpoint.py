"""Checkpoints of a training run: errors while one is written."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.terminal import is_disk_full, sentence
from pruning.healing import training


class Full(io.RawIOBase):
    """A file on a disk that has room for some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)


@pytest.mark.parametrize("room", [0, 100, 5_000, 40_000])
def test_a_full_disk_is_an_error_of_the_disk(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(_: Path) -> Iterator[tuple[Full, Path]]:
        yield Full(room), tmp_path / "never"

    monkeypatch.setattr(training, "temporary_file", full)
    state = training.State([torch.zeros(3_000), torch.zeros(20_000)], {}, step=3)
    with pytest.raises(OSError, match="No space left on device") as error:
        training.save(tmp_path, state)
    assert is_disk_full(error.value), "so the command ends, and does not go on with the next cell"
    assert sentence(error.value).startswith(
        f"{tmp_path / 'step-00000003.pt'} cannot be written, because the disk is full"
    )


def test_another_error_of_torch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="no such luck"):
        training.save(tmp_path, training.State([], {}, step=3))
    assert list(tmp_path.iterdir()) == []

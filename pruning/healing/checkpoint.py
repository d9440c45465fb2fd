"""The state of a training run, and its files.

A file is written atomically, so a kill leaves the last one whole. Its name ends with a part of its SHA-256, so a byte
that has changed since is found.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor

from pruning.core.atomic_files import naming
from pruning.core.errors import DamagedError, first_line
from pruning.core.hashing import file_sha256
from pruning.core.temporary import sweep, temporary_file
from pruning.distributed import collectives
from pruning.healing.curve import Point

NAME = re.compile(r"(step|decay)-(\d{8})-([0-9a-f]{16})\.pt")


@dataclass
class State:
    """How far a training run is: its weights, its optimizer, its curve and its best weights so far.

    `best` are the weights with the lowest held-out loss; None before the first. `worse` counts the held-out losses
    since then. The order of the data and the learning rate are functions of `step`, and training uses
    no random numbers, so this is everything.
    """

    weights: list[Tensor]
    optimizer: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("inf")
    best: list[Tensor] | None = None
    worse: int = 0

    def copy_of(self) -> list[Tensor]:
        """A copy of the weights."""
        return [weight.detach().clone() for weight in self.weights]


def save(folder: Path, state: State, kept: bool = False) -> None:
    """Write a checkpoint, and remove older ones beside it that no other budget needs. The first rank does this.

    A kept one is where the rate of some budget begins to fall.
    """

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        data = {**vars(state), "curve": json.dumps(state.curve)}
        data["weights"] = [weight.detach() for weight in state.weights]
        stem = f"{'decay' if kept else 'step'}-{state.step:08d}"
        with naming(folder / f"{stem}.pt"), temporary_file(folder / f"{stem}.pt") as (stream, temporary):
            _write(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
            path = folder / f"{stem}-{file_sha256(temporary)[:16]}.pt"
            temporary.replace(path)
        for kind, step, older in _files(folder):
            if older != path and (kind == "step" or step == state.step):
                older.unlink(missing_ok=True)

    collectives.on_first(write)


def _write(data: Any, stream: IO[bytes]) -> None:
    """Write data with `torch.save`; if a write fails, raise its error, which torch hides behind one of its own."""
    try:
        torch.save(data, stream)
    except RuntimeError as error:
        if isinstance(cause := error.__context__, OSError):
            raise cause from error
        raise


def load(path: Path) -> State:
    """Read a checkpoint into CPU memory. Raises DamagedError if the file is not the one that was written."""
    try:
        if path.stem.rpartition("-")[2] != file_sha256(path)[:16]:
            raise ValueError("its contents do not have the digest in its name")
        data = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**data, "curve": json.loads(data["curve"])})
    except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedError(
            f"{path} is damaged ({first_line(error)}): remove it, and healing starts from an earlier state."
        ) from error


def latest(folder: Path, most: int) -> Path | None:
    """The checkpoint of the largest step up to `most`; None if there is none. All ranks get the same answer."""

    def find() -> Path | None:
        fitting = [(step, path) for _, step, path in _files(folder) if step <= most]
        return max(fitting)[1] if fitting else None

    return collectives.on_first(find)


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written."""
    return int(path.stem.split("-")[1])


def _files(folder: Path) -> Iterator[tuple[str, int, Path]]:
    for path in sorted(folder.glob("*.pt")):
        if match := NAME.fullmatch(path.name):
            yield match[1], int(match[2]), path

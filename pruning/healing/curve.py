"""The curve of a healing, `heal.jsonl`: one line per step, and how it is summed up in a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict, cast

from pruning.core import atomic_files

NAME = "heal.jsonl"


class Point(TypedDict):
    """One step of training; step 0 is the pruned model before it."""

    step: Annotated[int, "The number of steps so far."]
    tokens: Annotated[int, "The number of tokens so far."]
    seconds: Annotated[float, "Seconds of training so far."]
    loss: NotRequired[Annotated[float, "The loss of the step's text before the step; absent for step 0."]]
    lr: NotRequired[Annotated[float, "The learning rate of the step."]]
    heldout_loss: NotRequired[Annotated[float, "Cross entropy per token on held-out text, after the step."]]


def append(path: Path, point: Point) -> None:
    """Append a point to a curve's file."""
    atomic_files.append_line(path, point)


def write(path: Path, points: Sequence[Point]) -> None:
    """Write a curve's file anew."""
    atomic_files.write_text(path, "".join(json.dumps(point) + "\n" for point in points))


def read(path: Path) -> list[Point]:
    """The points in a curve's file; empty if there is no file. A torn last line is left out."""
    if not path.exists():
        return []
    return [cast(Point, json.loads(line)) for _, line in atomic_files.read_lines(path)]


def heldout(points: Sequence[Point]) -> list[Point]:
    """The points at which the held-out loss was measured."""
    return [point for point in points if "heldout_loss" in point]

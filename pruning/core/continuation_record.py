"""`<mask>.continuations.json`: what a model wrote after each prompt, beside the measurement of its mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from pruning.core import atomic_files
from pruning.core.errors import DamagedError

ENDING = "continuations.json"
METRIC = "self_ppl/continuations"  # the metric whose measurement writes the file
SHOWN = 10  # prompts in a table for people


class ContinuationRecord(TypedDict):
    """The prompts and a model's continuations of them, in the same order."""

    prompts: list[str]
    texts: list[str]  # the greedy continuations
    greedy: list[list[int]]  # the same as tokens
    sampled: NotRequired[list[list[int]]]  # only of the dense model: the continuations that are scored


def read_continuations(measured: Path) -> ContinuationRecord | None:
    """The continuations beside the file of a measurement; None if there are none.

    Raises DamagedError if the file holds something else.
    """
    path = measured.with_name(f"{measured.stem}.{ENDING}")
    if not path.exists():
        return None
    kept: Any = atomic_files.read_json(path)
    known = isinstance(kept, dict) and {"prompts", "texts", "greedy"} <= kept.keys()
    if not known or not len(kept["prompts"]) == len(kept["texts"]) == len(kept["greedy"]):
        raise DamagedError(
            f"{path} is damaged: it holds no continuations. Move it and {measured} away, so that the model is "
            "measured again."
        )
    return cast(ContinuationRecord, kept)

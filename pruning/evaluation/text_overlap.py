"""Find data that calibration and evaluation share: a mask must not be chosen on the data that it is evaluated on.

`Samples.shared` compares the tokens of text windows and the keys of items. The documents of lm-eval's tasks have no
common format, so the words of each document are searched for in the text of the calibration data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pruning.calibration.item_files import Item
from pruning.calibration.samples import Samples, shared_runs
from pruning.core.errors import InputError
from pruning.evaluation import Data

RUN = 32  # words: a passage of this length counts as shared if it is in both the calibration and the evaluation data
ALONE = 8  # words: a shorter question is found only by its item's key

Words = tuple[str, ...]

REMEDY = "Choose another calibration.seed or other data, or allow the overlap with eval.allow_overlap=true."


def check_disjoint(calibration: Samples, data: Mapping[str, Data], remedy: str = REMEDY) -> None:
    """Raise InputError if calibration and evaluation share items or text; `remedy` ends the message."""
    for metric, shared in overlaps(calibration, data).items():
        evaluated, windows = data[metric], windows_of(data[metric])
        if windows is not None:
            alike = {number for number, _ in shared_runs(windows.rows, calibration.only("text").rows)}
            what = f"text in {len(alike)} of {windows.count} windows"
        else:
            count = getattr(evaluated, "count", None)  # the documents of a task are not counted
            what = f"{shared} items" if count is None else f"{shared} of {count} items"
        raise InputError(
            f"the calibration data ({calibration.source}, {calibration.sha256[:12]}) and the data of {metric} "
            f"({evaluated.source}, {evaluated.sha256[:12]}) share {what}: a mask must not be chosen on the data that "
            f"it is judged by. {remedy}"
        )


def overlaps(calibration: Samples, data: Mapping[str, Data]) -> dict[str, int]:
    """Map each metric whose data overlap the calibration data to the number of shared pieces."""
    counts = {metric: evaluated.shared(calibration) for metric, evaluated in data.items()}
    return {metric: shared for metric, shared in counts.items() if shared}


def windows_of(data: Data) -> Samples | None:
    """The text windows of evaluation data: the data themselves or their prompts; None if the data are not text."""
    windows = getattr(data, "windows", data)
    return windows if isinstance(windows, Samples) and windows.kind == "text" else None


class Haystack:
    """A search index of the words in the calibration data."""

    def __init__(self, calibration: Samples, tokenizer: Any) -> None:
        self.keys = calibration.keys
        decoded = (tokenizer.decode([t for row in unit for t in row.input_ids]) for unit in calibration.units)
        samples = [words(text) for text in decoded]
        self.text = "\n".join(f" {' '.join(sample)} " for sample in samples)
        self.runs = {run for sample in samples for run in _runs(sample)}

    def holds(self, question: str, choices: tuple[str, ...] = ()) -> bool:
        """Whether the calibration data contain an item, `RUN` adjacent words of its question, or the whole question.

        A question of fewer than `ALONE` words can be in any text, so only the key of its item is searched for.
        """
        asked = words(question)
        if Item(question, choices, 0).key in self.keys or any(run in self.runs for run in _runs(asked)):
            return True
        return len(asked) >= ALONE and f" {' '.join(asked)} " in self.text


@lru_cache(maxsize=1)
def haystack(calibration: Samples, tokenizer: Any) -> Haystack:
    """The search index of calibration data. It is cached because many tasks search it."""
    return Haystack(calibration, tokenizer)


def words(text: str) -> Words:
    """The words of a text in lower case, without spaces and punctuation."""
    return tuple(re.findall(r"\w+", text.lower()))


def _runs(sample: Words) -> list[Words]:
    return [sample[i : i + RUN] for i in range(len(sample) - RUN + 1)]

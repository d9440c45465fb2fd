"""Leave out what a healing must not see: windows of embedded text that repeat a passage of the evaluation's data.

The two parts of an embedded text share no paragraph, but a phrase of a manual can be in two paragraphs. A text of the
user that shares passages with the evaluation is a mistake, and `guard.py` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pruning.calibration.shared_runs import shared_runs
from pruning.core.errors import InputError
from pruning.evaluation import Data
from pruning.evaluation.overlap import windows_of
from pruning.healing.text import HealingText


def apart(text: HealingText, data: Mapping[str, Data], step: int) -> HealingText:
    """The text without the windows that share a run of tokens with windows of an evaluation.

    Raises InputError if no held-out window is left, or fewer windows than a step takes.
    """
    text = text.without(repeated(text, data))
    if not text.heldout or len(text.windows) < step:
        raise InputError(
            f"the healing text ({text.source}) shares passages with the evaluation's data in so many windows that "
            f"{len(text.heldout)} held-out windows and {len(text.windows)} others are left: raise heal.heldout, "
            "choose another heal.seed, or other text with heal.source."
        )
    return text


def repeated(text: HealingText, data: Mapping[str, Data]) -> frozenset[int]:
    """The numbers of the windows that share a run of tokens with windows of an evaluation, as `without` counts."""
    rows = (*text.heldout, *text.windows)
    others = [windows for one in data.values() if (windows := windows_of(one)) is not None]
    return frozenset(number for other in others for number, _ in shared_runs(rows, other.rows))

"""The text of healing: packed windows to train on, and held-out windows to measure the loss on.

The text comes from the same sources as calibration text; of a packaged text, only the part `calibration` is read.
Windows that share text with calibration samples are left out; so are training windows that repeat held-out text.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pruning.calibration import file_of
from pruning.calibration.samples import Row, Samples, apart, shared_runs
from pruning.calibration.text import start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.core.storage import file_sha256, text_sha256
from pruning.evaluation import Data
from pruning.evaluation.text_overlap import overlaps, windows_of
from pruning.healing.heal_settings import Training

log = logging.getLogger(__name__)

PIECE = 512  # windows that are compared with evaluation data at a time, so that memory is bounded


@dataclass(frozen=True)
class HealingText:
    """Windows of equal length: those to train on, in the order of the first epoch, and the held-out ones."""

    source: str
    windows: tuple[Row, ...]
    heldout: tuple[Row, ...]
    seed: int
    endless: bool = False  # whether the text is a stream that exceeds the budget
    file_sha256: str | None = None  # of the local file that the windows come from, if any
    left_out: tuple[int, ...] | None = None  # which drawn windows are missing, as `without` numbers them

    @cached_property
    def sha256(self) -> str:
        """The digest of the token ids of all windows."""
        return _sha256(self.windows, self.heldout)

    @cached_property
    def beginning(self) -> str:
        """A digest of the text; it is equal for two budgets if the larger budget only appends training windows."""
        return _sha256(self.heldout) if self.endless else self.sha256

    def without(self, numbers: Collection[int]) -> HealingText:
        """The text without the windows `numbers`. Numbers start at 0, and held-out windows come first."""
        heldout, windows = (
            tuple(row for number, row in enumerate(rows, first) if number not in numbers)
            for first, rows in ((0, self.heldout), (len(self.heldout), self.windows))
        )
        return replace(self, heldout=heldout, windows=windows, left_out=tuple(sorted(numbers)))

    def batch(self, step: int, size: int) -> list[Row]:
        """The `size` windows of a step, counted from 0. Seed and step determine them, so no state is saved."""
        count = len(self.windows)
        places = (divmod(number, count) for number in range(step * size, (step + 1) * size))
        return [self.windows[_order(self.seed, epoch, count)[place]] for epoch, place in places]


def _sha256(*parts: Sequence[Row]) -> str:
    return text_sha256(json.dumps([[row.input_ids for row in rows] for rows in parts]))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Sequence[int]:
    """The order of windows in an epoch; the first epoch keeps the order in which they were drawn."""
    if epoch == 0:
        return range(count)
    return [int(i) for i in np.random.default_rng([seed, epoch]).permutation(count)]


def draw_text(settings: Training, tokenizer: Any, calibration: Samples | None = None) -> HealingText:
    """The text of healing, in windows of `settings.length` tokens (including BOS, if the tokenizer puts it first).

    Documents are tokenised and concatenated. Raises the InputError of `packed`.
    """
    file = file_of(settings)
    sha256 = None if file is None else file_sha256(Path(file).expanduser())  # before the text is read
    needed = (settings.steps * settings.windows + settings.heldout) * settings.length
    documents = settings.text.documents("heal")
    ids = token_ids(documents, tokenizer, 2 * needed if settings.stream else None)
    name = settings.path or settings.source
    return replace(packed(ids, start_tokens(tokenizer), settings, name, calibration), file_sha256=sha256)


def packed(
    ids: Sequence[int],
    first: tuple[int, ...],
    settings: Training,
    name: str,
    calibration: Samples | None = None,
) -> HealingText:
    """Cut token ids into windows that begin with the tokens `first`, and set the held-out windows aside.

    The windows are shuffled. If the text is a stream, its documents were shuffled instead, so that all budgets
    have the same first windows. Windows that share text with calibration samples are left out. Raises
    InputError if too few windows are left.
    """
    payload = settings.length - len(first)
    cuts = [tuple(ids[i : i + payload]) for i in range(0, len(ids) - payload + 1, payload)]
    if not settings.stream:
        order = np.random.default_rng([settings.seed, 7]).permutation(len(cuts))
        cuts = [cuts[i] for i in order]
    rows = tuple(Row((*first, *cut), (1, settings.length)) for cut in cuts)
    if calibration is not None:
        rows = apart(rows, calibration.only("text").rows)
    heldout = rows[: settings.heldout]
    windows = apart(rows[settings.heldout :], heldout)
    if len(heldout) < settings.heldout or len(windows) < settings.windows:
        raise InputError(
            f"{name} gives {len(cuts)} windows of {settings.length} tokens, of which {len(cuts) - len(rows)} share "
            f"text with the calibration samples and {len(rows) - len(heldout) - len(windows)} repeat text of the "
            f"held-out windows; {settings.heldout} are held out and {settings.windows} are needed for a step. Give "
            "more text, or other text, or lower heal.length, heal.heldout or heal.batch_tokens."
        )
    needed = settings.steps * settings.windows
    endless = settings.stream and len(windows) >= needed
    return HealingText(name, windows[:needed] if endless else windows, heldout, settings.seed, endless)


def epochs(text: HealingText, settings: Training) -> float:
    """How often training reads the whole text within its budget; logs a warning if this is more than once."""
    count = settings.steps * settings.windows
    found = count / len(text.windows)
    if found > 1:
        log.warning(
            "%s has %d tokens to train on and the budget is %d, so the text is read %.2f times (%.2f epochs)",
            *(text.source, len(text.windows) * settings.length, count * settings.length, found, found),
        )
    return found


# Healing must not train on the data of the evaluation. Windows of a packaged text that repeat a passage of
# these data are left out: the text's two parts share no paragraph, but a phrase of a manual can be in two
# paragraphs. If the user's own text shares passages with these data, it is refused as a mistake.


def text_apart(text: HealingText, data: Mapping[str, Data], step: int) -> HealingText:
    """The text without the windows that share a run of tokens with windows of an evaluation.

    Raises InputError if no held-out window is left, or if fewer than `step` windows are left to train on.
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
    """The numbers (see `without`) of the windows that share a run of tokens with windows of an evaluation."""
    rows = (*text.heldout, *text.windows)
    others = [windows for one in data.values() if (windows := windows_of(one)) is not None]
    return frozenset(number for other in others for number, _ in shared_runs(rows, other.rows))


def check_text(text: HealingText, data: Mapping[str, Data]) -> None:
    """Raise InputError if the text of healing and the data of an evaluation share passages or items."""
    counts: Counter[str] = Counter()
    rows = (*text.heldout, *text.windows)
    for start in range(0, len(rows), PIECE):
        piece = Samples("text", text.source, rows[start : start + PIECE], text.seed)
        counts.update(overlaps(piece, data))
    for metric, shared in counts.items():
        raise InputError(
            f"the text of the healing ({text.source}, {text.sha256[:12]}) and the data of {metric} "
            f"({data[metric].source}, {data[metric].sha256[:12]}) share {shared} passages or items: a model must not "
            "be trained on the data that it is judged by. Choose other text with heal.source, or allow the overlap "
            "with eval.allow_overlap=true."
        )


def check_length(length: int, limit: int | None, model: str) -> None:
    """Raise InputError if `length` exceeds `limit`, the model's longest input (None: no limit)."""
    if limit is not None and length > limit:
        raise InputError(f"heal.length={length} is too long: {model} reads at most {limit} tokens.")

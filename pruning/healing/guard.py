"""What is refused before a model is trained: windows beyond its context, and the data that it is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pruning.core.errors import InputError
from pruning.evaluation import Data
from pruning.evaluation.overlap import overlaps
from pruning.healing.text import HealingText


def check_length(length: int, limit: int | None, model: str) -> None:
    """Raise InputError if windows of `length` tokens are longer than the model reads (None: no limit)."""
    if limit is not None and length > limit:
        raise InputError(f"heal.length={length} is too long: {model} reads at most {limit} tokens.")


def check_text(text: HealingText, data: Mapping[str, Data]) -> None:
    """Raise InputError if the text of a healing and the data of an evaluation share passages or items."""
    counts: Counter[str] = Counter()
    for piece in text.pieces():
        counts.update(overlaps(piece, data))
    for metric, shared in counts.items():
        raise InputError(
            f"the text of the healing ({text.source}, {text.sha256[:12]}) and the data of {metric} "
            f"({data[metric].source}, {data[metric].sha256[:12]}) share {shared} passages or items: a model must not "
            "be trained on the data that it is judged by. Choose other text with heal.source, or allow the overlap "
            "with eval.allow_overlap=true."
        )

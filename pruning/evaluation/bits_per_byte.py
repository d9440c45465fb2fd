"""Bits per byte: a model's loss on a text, in a unit that does not depend on the tokenizer.

A perplexity is per token, so perplexities are comparable only between models that read the same tokens. Bits
per byte are the negative log-likelihood of the predicted tokens, in bits, divided by the bytes of text that
these tokens stand for. A model with another tokenizer reads the same windows of text in its own tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError
from pruning.core.scoring import Estimate


def window_costs(terms: Mapping[str, Any], samples: Samples, tokenizer: Any) -> tuple[list[float], Estimate]:
    """The bits per byte of each window, and an `Estimate` of their mean that weights windows by their bytes.

    `terms` has each window's nats per token and number of predicted tokens, as measured for a perplexity.
    """
    sizes = [sum(_sizes(tokenizer, row.input_ids[slice(*row.span)])) for row in samples.rows]
    windows = zip(terms["losses"], terms["tokens"], sizes, strict=True)
    costs = [loss * tokens / math.log(2) / size for loss, tokens, size in windows]
    return costs, Estimate(tuple(map(float, sizes)), (0,) * len(sizes))


def _sizes(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The number of bytes that each token stands for, even if it contains only part of a character."""
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    if "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)):
        return [len(token) for token in tokens]  # each character stands for a byte
    # SentencePiece writes a mark for a space, and <0xE2> for a byte of a character without a token.
    return [
        1 if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else len(token.replace("\u2581", " ").encode())
        for token in tokens
    ]


def read_anew(samples: Samples, tokenizer: Any, other: Any) -> Samples:
    """The same text as in the windows `samples`, in tokens of `other` instead of `tokenizer`.

    The text before a row's scored span is read but not predicted, and the first token of a row is never predicted. A
    character that is partly outside of a window is left out. Raises InputError if a window has fewer than two tokens.
    """
    first = start_tokens(other)

    def cut(text: str) -> list[int]:
        return list(other(text, add_special_tokens=False, verbose=False).input_ids)

    rows = []
    for row in samples.rows:
        before, whole = (
            tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in (row.input_ids[: row.span[0]], row.input_ids)
        )
        start = len(first) + len(cut(before.strip("\ufffd")))
        ids = (*first, *cut(whole.strip("\ufffd")))
        if len(ids) < 2:
            raise InputError(
                f"{samples.source}: the window {whole!r} is too short to compare tokenizers by it: choose longer "
                "windows, or leave a last, shorter one out (tail: false)."
            )
        rows.append(Row(ids, (min(max(1, start), len(ids) - 1), len(ids))))
    return replace(samples, rows=tuple(rows))

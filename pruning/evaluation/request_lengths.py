"""How many tokens a request of lm-eval has, tokenised as lm-eval does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPECIAL = 4  # more special tokens than any tokenizer adds to a text

Pair = Sequence[str]  # a context and a continuation


def token_counts(pairs: Sequence[Pair], tokenizer: Any) -> list[tuple[int, int]]:
    """For each pair, the number of tokens of its context, and of context and continuation together.

    As in lm-eval, spaces at the end of a context belong to the continuation.
    """
    contexts = [pair[0].rstrip() for pair in pairs]
    counts = _counts([*contexts, *(pair[0] + pair[1] for pair in pairs)], tokenizer)
    return [
        (counts[context], counts[pair[0] + pair[1]]) for context, pair in zip(contexts, pairs, strict=True)
    ]


def might_exceed(pair: Pair, most: int) -> bool:
    """False if a pair certainly has at most `most` tokens, since a token stands for at least one byte."""
    return len((pair[0] + pair[1]).encode()) + SPECIAL > most


def _counts(texts: Sequence[str], tokenizer: Any) -> dict[str, int]:
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    rows = tokenizer(distinct, verbose=False).input_ids
    return {text: len(ids) for text, ids in zip(distinct, rows, strict=True)}

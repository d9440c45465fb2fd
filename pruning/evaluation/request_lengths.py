"""How many tokens a request of lm-eval has, tokenised as lm-eval does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPECIAL = 4  # more special tokens than any tokenizer adds to a text

Pair = Sequence[str]  # a context and a continuation


def token_counts(pairs: Sequence[Pair], tokenizer: Any) -> list[tuple[int, int]]:
    """For each pair, the number of tokens of its context, and of context and continuation together.

    As in lm-eval, spaces at the end of a context belong to the continuation, and an empty context is one token.
    """
    contexts = [pair[0].rstrip() for pair in pairs]
    counts = _counts([*contexts, *(pair[0] + pair[1] for pair in pairs)], tokenizer)
    found = []
    for context, pair in zip(contexts, pairs, strict=True):
        # A tokenizer that puts a token before every text adds it itself.
        added = int(not pair[0] and counts[""] == 0)
        found.append((counts[context] + added, counts[pair[0] + pair[1]] + added))
    return found


def prefix_token(tokenizer: Any) -> int:
    """The token that lm-eval puts before an empty context: beginning of text, end of text, or else token 0."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None), 0)


def might_exceed(pair: Pair, most: int) -> bool:
    """False if a pair certainly has at most `most` tokens, since a token stands for at least one byte."""
    return len((pair[0] + pair[1]).encode()) + SPECIAL > most


def _counts(texts: Sequence[str], tokenizer: Any) -> dict[str, int]:
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    rows = tokenizer(distinct, verbose=False).input_ids
    return {text: len(ids) for text, ids in zip(distinct, rows, strict=True)}

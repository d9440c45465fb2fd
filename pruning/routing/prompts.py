"""Prompts as token rows, and which blocks a router may run: those that every set keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.calibration.samples import Row
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError
from pruning.core.mask import Mask

SHARE = 4  # by default, a router runs at most one block in so many


def prompt_rows(tokenizer: Any, prompts: Sequence[str], most: int | None = None) -> list[Row]:
    """The rows of prompts. Raises InputError if a prompt has fewer than two tokens, or more than `most`."""
    first = start_tokens(tokenizer)
    rows = []
    for prompt in prompts:
        ids = (*first, *tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
        if len(ids) < 2:
            raise InputError(f"the prompt {prompt!r} has fewer than two tokens: give a longer one.")
        if most is not None and len(ids) > most:
            raise InputError(
                f"the prompt {prompt[:40]!r}... has {len(ids)} tokens, and the model reads at most {most}: "
                "shorten it."
            )
        rows.append(Row(ids, (len(ids) - 1, len(ids))))
    return rows


def first_blocks(masks: Sequence[Mask], wanted: int | None) -> int:
    """How many blocks at the beginning a router runs: `wanted`, or as many as no mask drops, up to a quarter of all.

    Raises InputError if a mask drops a part of one of the `wanted` blocks.
    """
    n_blocks, per_block = masks[0].n_blocks, masks[0].n_units // masks[0].n_blocks
    kept = min((mask.dropped[0] // per_block for mask in masks if mask.dropped), default=n_blocks)
    if wanted is None:
        return min(kept, n_blocks // SHARE)
    if wanted > kept:
        raise InputError(
            f"router.blocks={wanted}: a set drops block {kept} or a part of it, so at most {kept} blocks can be run "
            f"for all sets: choose {kept} or fewer."
        )
    return wanted

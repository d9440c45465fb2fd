"""Make batches for a model from token rows: sort and pad the rows, and pack the choices of an item into one line.

An item's choices share its prompt. A packed line has the prompt once, followed by the choices. Each choice attends
to the prompt and itself but not to the other choices, and its positions continue from the end of the prompt:

    tokens     q q q a a b b b        a, b: two answers to the question q
    position   0 1 2 3 4 3 4 5
    segment    0 0 0 1 1 2 2 2        token i attends to j <= i if j's segment is 0 or i's segment
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


@dataclass(frozen=True)
class TokenLine:
    """One line of a batch: tokens, their positions and segments, and the tokens to score.

    A target is (index, token, row): the logits at `index` predict `token`, whose log-likelihood counts for `row`.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    targets: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a model, and n targets.

    Each target has an index into the flattened (B * T) tokens, a token id and a row number.
    """

    ids: Tensor  # (B, T), right-padded
    attention: Tensor | None  # (B, T) of 0 and 1, (B, 1, T, T) of booleans, or None if causality suffices
    positions: Tensor | None  # (B, T), or None for 0, 1, 2, ...
    indices: Tensor
    targets: Tensor
    rows: Tensor

    def inputs(self, device: torch.device, dtype: torch.dtype, copies: int = 1) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, for `copies` of this batch, stacked along the batch axis."""
        arguments = {"input_ids": self.ids.to(device)}
        if self.attention is not None:
            mask = self.attention.to(device)
            if self.attention.dim() == 4:  # additive, since every attention kernel accepts such a mask
                mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
            arguments["attention_mask"] = mask
        if self.positions is not None:
            arguments["position_ids"] = self.positions.to(device)
        return {name: tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for name, tensor in arguments.items()}


def single(rows: Sequence[Row]) -> list[TokenLine]:
    """One line per row."""
    return [_line([(number, row)], len(row.input_ids)) for number, row in enumerate(rows)]


def packed(rows: Sequence[Row]) -> list[TokenLine]:
    """For items, one line per item: the common prompt, then the choices. For texts, one line per row."""
    numbered = enumerate(rows)
    groups = groupby(
        numbered, key=lambda pair: ("row", pair[0]) if pair[1].item is None else ("item", pair[1].item)
    )
    return [_line(members, _common(row for _, row in members)) for members in (list(g) for _, g in groups)]


def make_batches(lines: Sequence[TokenLine], batch_tokens: int) -> list[Batch]:
    """Sort lines by length and cut them into batches of at most `batch_tokens` tokens, padding included.

    The batches depend only on the lines, so computing a loss again gives the same value to the last bit. A line
    longer than `batch_tokens` is the only line of its batch.
    """
    ordered = sorted(lines, key=lambda line: (len(line.tokens), line.targets))
    batches: list[list[TokenLine]] = []
    for line in ordered:
        if not batches or (len(batches[-1]) + 1) * len(line.tokens) > batch_tokens:
            batches.append([])
        batches[-1].append(line)
    return [_batch(members) for members in batches]


def _common(rows: Iterable[Row]) -> int:
    """The length of the prefix that all rows share. The prefix ends before the first token that any row scores."""
    members = list(rows)
    limit = min(row.span[0] for row in members)
    first = members[0].input_ids
    same = (all(row.input_ids[i] == first[i] for row in members) for i in range(limit))
    return next((i for i, equal in enumerate(same) if not equal), limit)


def _line(members: Sequence[tuple[int, Row]], prompt: int) -> TokenLine:
    """A line of numbered rows that share their first `prompt` tokens."""
    tokens = list(members[0][1].input_ids[:prompt])
    positions, segments, targets = list(range(prompt)), [0] * prompt, []
    for segment, (number, row) in enumerate(members, start=1):
        shift = len(tokens) - prompt
        choice = row.input_ids[prompt:]
        tokens += choice
        positions += range(prompt, prompt + len(choice))
        segments += [segment] * len(choice)
        for t in range(*row.span):
            index = t - 1 if t - 1 < prompt else t - 1 + shift
            targets.append((index, row.input_ids[t], number))
    return TokenLine(tuple(tokens), tuple(positions), tuple(segments), tuple(targets))


def _batch(lines: Sequence[TokenLine]) -> Batch:
    width = max(len(line.tokens) for line in lines)
    ids = torch.tensor([_filled(line.tokens, width, 0) for line in lines])
    flat = [
        (b * width + index, token, row) for b, line in enumerate(lines) for index, token, row in line.targets
    ]
    indices, targets, rows = (torch.tensor(column) for column in zip(*flat, strict=True))
    if all(max(line.segments) <= 1 for line in lines):
        attention = torch.tensor([_filled((1,) * len(line.tokens), width, 0) for line in lines])
        padded = bool((attention == 0).any())
        return Batch(ids, attention if padded else None, None, indices, targets, rows)
    positions = torch.tensor([_filled(line.positions, width, 0) for line in lines])
    segments = torch.tensor([_filled(line.segments, width, -1) for line in lines])
    return Batch(ids, _visible(segments), positions, indices, targets, rows)


def _visible(segments: Tensor) -> Tensor:
    """The attention mask (B, 1, T, T) of segments (B, T): true if token i attends to j. Padding attends to itself."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    visible = causal & ((key == 0) | (key == query)) | torch.eye(length, dtype=torch.bool)
    return visible[:, None]


def _filled(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]

"""Token rows as batches that a model can run: sorted by length, padded, choices of an item packed into one row.

An item's choices share its prompt. Packed, the prompt stands once and the choices behind it, each seeing the
prompt and itself but not the others, each counted from where the prompt ends:

    tokens     q q q a a b b b        a, b: two answers to the question q
    position   0 1 2 3 4 3 4 5
    segment    0 0 0 1 1 2 2 2        token i sees token j <= i if j's segment is 0 or i's own
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
    """One line of a batch: tokens, their positions and segments, and what is to be scored.

    A target (place, token, row): the logits at `place` predict `token`, whose log-likelihood counts for `row`.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    targets: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """What a model is given, and n targets: places (n,) in the flattened (B * T) tokens, token ids, row numbers."""

    ids: Tensor  # (B, T), right-padded
    attention: Tensor | None  # (B, T) of 0 and 1, (B, 1, T, T) of booleans, or None where nothing is masked
    positions: Tensor | None  # (B, T), or None for 0, 1, 2, ...
    places: Tensor
    targets: Tensor
    rows: Tensor

    def inputs(self, device: torch.device, dtype: torch.dtype, copies: int = 1) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, for `copies` of this batch one below the other."""
        found = {"input_ids": self.ids.to(device)}
        if self.attention is not None:
            found["attention_mask"] = self.attention.to(device)
            if self.attention.dim() == 4:  # added to the scores, as every attention kernel takes it
                barred = torch.finfo(dtype).min
                found["attention_mask"] = torch.where(found["attention_mask"], 0.0, barred).to(dtype)
        if self.positions is not None:
            found["position_ids"] = self.positions.to(device)
        return {name: tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for name, tensor in found.items()}


def single(rows: Sequence[Row]) -> list[TokenLine]:
    """A line for each row."""
    return [_line([(number, row)], len(row.input_ids)) for number, row in enumerate(rows)]


def packed(rows: Sequence[Row]) -> list[TokenLine]:
    """A line for each item, its choices behind their common prompt; a line for each row of a text."""
    numbered = enumerate(rows)
    groups = groupby(
        numbered, key=lambda pair: ("row", pair[0]) if pair[1].item is None else ("item", pair[1].item)
    )
    return [_line(members, _common(row for _, row in members)) for members in (list(g) for _, g in groups)]


def make_batches(lines: Sequence[TokenLine], batch_tokens: int) -> list[Batch]:
    """Lines sorted by length and cut into batches of at most `batch_tokens` tokens, padding included.

    The cut depends on the lines alone, so that losses repeat to the last bit. A line that is longer than
    `batch_tokens` is a batch of its own.
    """
    ordered = sorted(lines, key=lambda line: (len(line.tokens), line.targets))
    batches: list[list[TokenLine]] = []
    for line in ordered:
        if not batches or (len(batches[-1]) + 1) * len(line.tokens) > batch_tokens:
            batches.append([])
        batches[-1].append(line)
    return [_batch(members) for members in batches]


def _common(rows: Iterable[Row]) -> int:
    """How many tokens all rows begin with, none of them scored in any row but as the next one's prompt."""
    members = list(rows)
    limit = min(row.span[0] for row in members)
    first = members[0].input_ids
    same = (all(row.input_ids[i] == first[i] for row in members) for i in range(limit))
    return next((i for i, equal in enumerate(same) if not equal), limit)


def _line(members: Sequence[tuple[int, Row]], prompt: int) -> TokenLine:
    """Rows behind the `prompt` tokens that they share."""
    tokens = list(members[0][1].input_ids[:prompt])
    positions, segments, targets = list(range(prompt)), [0] * prompt, []
    for segment, (number, row) in enumerate(members, start=1):
        shift = len(tokens) - prompt
        own = row.input_ids[prompt:]
        tokens += own
        positions += range(prompt, prompt + len(own))
        segments += [segment] * len(own)
        for t in range(*row.span):
            place = t - 1 if t - 1 < prompt else t - 1 + shift
            targets.append((place, row.input_ids[t], number))
    return TokenLine(tuple(tokens), tuple(positions), tuple(segments), tuple(targets))


def _batch(lines: Sequence[TokenLine]) -> Batch:
    width = max(len(line.tokens) for line in lines)
    ids = torch.tensor([_filled(line.tokens, width, 0) for line in lines])
    flat = [
        (b * width + place, token, row) for b, line in enumerate(lines) for place, token, row in line.targets
    ]
    places, targets, rows = (torch.tensor(column) for column in zip(*flat, strict=True))
    if all(max(line.segments) <= 1 for line in lines):
        attention = torch.tensor([_filled((1,) * len(line.tokens), width, 0) for line in lines])
        padded = bool((attention == 0).any())
        return Batch(ids, attention if padded else None, None, places, targets, rows)
    positions = torch.tensor([_filled(line.positions, width, 0) for line in lines])
    segments = torch.tensor([_filled(line.segments, width, -1) for line in lines])
    return Batch(ids, _visible(segments), positions, places, targets, rows)


def _visible(segments: Tensor) -> Tensor:
    """(B, T) segments to (B, 1, T, T): which token, in a line, may look at which; padding looks at itself."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    of, at = segments[:, :, None], segments[:, None, :]
    visible = causal & ((at == 0) | (at == of)) | torch.eye(length, dtype=torch.bool)
    return visible[:, None]


def _filled(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]

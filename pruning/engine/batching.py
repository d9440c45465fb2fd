"""Turn token rows into batches for a model: sort and pad the rows, and pack an item's choices into one line.

An item's choices share its prompt. A packed line is the prompt and then the choices. Each choice attends to
the prompt and itself but not to the other choices, and its positions continue from the end of the prompt:

    tokens     q q q a a b b b        a, b: two answers to the question q
    position   0 1 2 3 4 3 4 5
    segment    0 0 0 1 1 2 2 2        token i attends to j <= i if j's segment is 0 or equals i's
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning.engine import collectives

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

# Choices are packed if log-likelihoods change by at most this, absolute plus relative (other dtypes: 0.05).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
TRIED = 8  # number of first rows whose items are run both packed and unpacked


@dataclass(frozen=True)
class TokenLine:
    """One line of a batch: tokens, their positions and segments, and targets (the tokens to score).

    A target is (index, token, row): the logits at `index` predict `token`, whose log-likelihood counts for `row`.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    targets: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a model, and the n tokens to score (the targets).

    A target has the index of the position that predicts it (among the B * T flattened positions), its id and its row.
    """

    ids: Tensor  # (B, T), right-padded
    attention: Tensor | None  # (B, T) of 0, 1; (B, 1, T, T) of booleans; or None if the causal mask suffices
    positions: Tensor | None  # (B, T), or None for 0, 1, 2, ...
    indices: Tensor
    targets: Tensor
    rows: Tensor
    _scored: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def scored(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`indices` and `targets` on a device, where they are kept: each mask needs them."""
        if device not in self._scored:
            self._scored[device] = self.indices.to(device), self.targets.to(device)
        return self._scored[device]

    def inputs(self, device: torch.device, dtype: torch.dtype, copies: int = 1) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward: the batch, repeated `copies` times along axis 0."""
        arguments = {"input_ids": self.ids.to(device)}
        if self.attention is not None:
            mask = self.attention.to(device)
            if self.attention.dim() == 4:  # an additive mask, which every attention kernel accepts
                mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
            arguments["attention_mask"] = mask
        if self.positions is not None:
            arguments["position_ids"] = self.positions.to(device)
        return {name: tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for name, tensor in arguments.items()}


# Computes log-likelihoods (rows,) under the dense model, from rows and their lines.
Likelihoods = Callable[[Sequence["Row"], Sequence[TokenLine]], np.ndarray[Any, Any]]


def token_lines(module: Any, rows: Sequence[Row], likelihoods: Likelihoods) -> list[TokenLine]:
    """Make lines from rows. Choices are packed if this changes the first items' log-likelihoods by at most TOLERANCE.

    To pack, the model must accept positions and a mask of token pairs, and its sliding window must hold each line.
    """
    if all(row.item is None for row in rows):
        return single(rows)
    config = module.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or float("inf")
    accepts = "position_ids" in inspect.signature(module.forward).parameters
    fits = max(len(line.tokens) for line in packed(rows)) <= window
    if not (accepts and fits and config._attn_implementation in ("eager", "sdpa")):
        return single(rows)
    first = tuple(row for row in rows if row.item in {r.item for r in rows[:TRIED]})

    def agree() -> bool:
        try:
            joined, apart = (likelihoods(first, make(first)) for make in (packed, single))
        except (RuntimeError, TypeError, ValueError):  # the model does not accept such a mask or positions
            return False
        tolerance = TOLERANCE.get(module.dtype, 0.05)
        return bool(np.allclose(joined, apart, rtol=tolerance, atol=tolerance))

    return packed(rows) if collectives.on_first(agree) else single(rows)


def single(rows: Sequence[Row]) -> list[TokenLine]:
    """One line per row."""
    return [_line([(number, row)], len(row.input_ids)) for number, row in enumerate(rows)]


def packed(rows: Sequence[Row]) -> list[TokenLine]:
    """One line per item (the common prompt, then the choices), and one line per row of text."""
    groups = groupby(
        enumerate(rows), key=lambda pair: ("row", pair[0]) if pair[1].item is None else ("item", pair[1].item)
    )
    return [_line(members, _common(row for _, row in members)) for members in (list(g) for _, g in groups)]


def make_batches(lines: Sequence[TokenLine], batch_tokens: int) -> list[Batch]:
    """Sort lines by length and cut them into batches of at most `batch_tokens` tokens, padding included.

    The batches depend only on the lines and `batch_tokens`, so computing a loss again gives bitwise the same value. A
    line longer than `batch_tokens` gets its own batch.
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
    """One line made of (number, row) pairs whose rows share their first `prompt` tokens."""
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

    def padded(rows: Iterable[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])

    ids = padded((line.tokens for line in lines), 0)
    flat = [
        (b * width + index, token, row) for b, line in enumerate(lines) for index, token, row in line.targets
    ]
    indices, targets, rows = (torch.tensor(column) for column in zip(*flat, strict=True))
    if all(max(line.segments) <= 1 for line in lines):
        attention = padded(([1] * len(line.tokens) for line in lines), 0)
        return Batch(ids, attention if bool((attention == 0).any()) else None, None, indices, targets, rows)
    segments = padded((line.segments for line in lines), -1)
    query, key = segments[:, :, None], segments[:, None, :]
    causal, padding = torch.ones(width, width, dtype=torch.bool).tril(), torch.eye(width, dtype=torch.bool)
    visible = causal & ((key == 0) | (key == query)) | padding  # padding attends to itself
    return Batch(ids, visible[:, None], padded((line.positions for line in lines), 0), indices, targets, rows)

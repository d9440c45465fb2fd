"""Make batches for a model from token rows: sort and pad the rows, and pack the choices of an item into one line.

An item's choices share its prompt. A packed line has the prompt once, followed by the choices. Each choice attends
to the prompt and itself but not to the other choices, and its positions continue from the end of the prompt:

    tokens     q q q a a b b b        a, b: two answers to the question q
    position   0 1 2 3 4 3 4 5
    segment    0 0 0 1 1 2 2 2        token i attends to j <= i if j's segment is 0 or i's segment
"""

from __future__ import annotations

import inspect
import logging
import os
import resource
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from pruning.engine import collectives
from pruning.models.blocks import find_blocks

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.model import LanguageModel


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


# Decide whether the choices of an item may share one line of tokens, by running the model on a few items.

# Relative and absolute tolerance of losses. For other dtypes, the tolerance is 0.05.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
# The items of the first TRIED rows are run twice, packed and unpacked, and the losses are compared.
TRIED = 8

# Computes log-likelihoods (rows,) under the dense model, from rows and their lines.
Likelihoods = Callable[[Sequence["Row"], Sequence[TokenLine]], np.ndarray[Any, Any]]


def lines(module: Any, rows: Sequence[Row], likelihoods: Likelihoods) -> list[TokenLine]:
    """Make lines from rows. Choices are packed if packing does not change this model's losses."""
    if all(row.item is None for row in rows) or not _supports_packing(module, packed(rows)):
        return single(rows)
    first = tuple(row for row in rows if row.item in {r.item for r in rows[:TRIED]})
    same = collectives.on_first(lambda: _agree(first, likelihoods, TOLERANCE.get(module.dtype, 0.05)))
    return packed(rows) if same else single(rows)


def _supports_packing(module: Any, candidates: Sequence[TokenLine]) -> bool:
    """Whether a model accepts positions and a mask of token pairs, and its attention window covers every line."""
    config = module.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or float("inf")
    longest = max(len(line.tokens) for line in candidates)
    accepts = "position_ids" in inspect.signature(module.forward).parameters
    return accepts and longest <= window and config._attn_implementation in ("eager", "sdpa")


def _agree(first: Sequence[Row], likelihoods: Likelihoods, tolerance: float) -> bool:
    """Whether rows of items have the same losses, within the tolerance, if they are packed and if they are not."""
    try:
        joined, apart = (likelihoods(first, make_lines(first)) for make_lines in (packed, single))
    except (RuntimeError, TypeError, ValueError):  # the model does not accept such a mask or positions
        return False
    return bool(np.allclose(joined, apart, rtol=tolerance, atol=tolerance))


# Decide which branches of a walk run as one batch, because one branch alone would leave the device idle.

log = logging.getLogger(__name__)

# Branches run as one batch if a single branch would leave the device idle. With fewer than MERGE_OPERATIONS
# operations per block, starting kernels takes longer than running them. With fewer than MERGE_TOKENS tokens,
# reading the weights takes longer than computing with them.
MERGE_OPERATIONS = {"cpu": 1e8, "cuda": 1e11}
MERGE_TOKENS = 32
# Tokens that are merged on request in half precision on a CPU: with more, products become no faster.
FULL_TOKENS = 512


@dataclass
class Merging:
    """How many branches of a model run as one batch.

    `merge` is as in `Forward`. `alike` says whether a number of branches of a batch of units can be merged so that no
    branch depends on the others. `most` is the number of tokens that a pass may have.
    """

    model: LanguageModel
    merge: bool | None
    alike: Callable[[Batch, str, int], bool]
    _alike: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def branches(self, batch: Batch, unit: str, most: int) -> int:
        """How many branches of a batch run as one: several if one branch alone would leave the device idle.

        With merging, the weights are read once for all branches, which also saves time if they are on disk.
        """
        tokens = batch.ids.numel()
        if self.filled:
            return self._copies(tokens, most) if self._alike.get(self._shape(batch, unit, most)) else 1
        if self.merge is False or not (self._exact or self._offloaded):
            return 1
        return max(1, most // tokens) if self._small(tokens) or self._offloaded else 1

    def check(self, batches: Sequence[Batch], unit: str, most: int) -> None:
        """Check which batches can be merged. All ranks must call it."""
        for batch in batches if self.filled else ():
            copies, shape = self._copies(batch.ids.numel(), most), self._shape(batch, unit, most)
            if copies < 2 or shape in self._alike:
                continue
            self._alike[shape] = not collectives.all_max(float(not self._fits(batch, unit, copies)))
            if not self._alike[shape]:
                log.warning(
                    "forward.merge: batches of %d tokens are not merged, because not all branches are treated alike, "
                    "or memory ran out in the check",
                    batch.ids.numel(),
                )

    @property
    def filled(self) -> bool:
        """Whether merged passes are filled up to one shape (`equal_shapes.py`).

        In half precision, and on a GPU, the last bit of a matrix product depends on the number of its rows. A mask's
        loss would depend on the other masks, and a search that is interrupted and continued could end differently.
        """
        return bool(self.merge) and not self._exact and not self._offloaded

    def _fits(self, batch: Batch, unit: str, copies: int) -> bool:
        try:
            return self.alike(batch, unit, copies)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False

    def _shape(self, batch: Batch, unit: str, most: int) -> tuple[object, ...]:
        """All that the kernels of a merged pass can depend on."""
        attention = None if batch.attention is None else batch.attention.dim()
        return (
            unit, *batch.ids.shape, len(batch.targets), attention, batch.positions is None,
            self._copies(batch.ids.numel(), most),
        )  # fmt: skip

    def _copies(self, tokens: int, most: int) -> int:
        if self.model.device.type == "cpu":
            return max(1, min(most, FULL_TOKENS) // tokens)
        return max(1, most // tokens) if self._small(tokens) else 1

    def _small(self, tokens: int) -> bool:
        """Whether a batch with this many tokens would leave the device idle."""
        block = find_blocks(self.model.module).modules[0]
        operations = 2 * tokens * sum(p.numel() for p in block.parameters())
        return tokens < MERGE_TOKENS or operations < MERGE_OPERATIONS.get(self.model.device.type, 1e8)

    @property
    def _exact(self) -> bool:
        wide = self.model.module.dtype in (torch.float32, torch.float64)
        return wide and self.model.device.type == "cpu"

    @property
    def _offloaded(self) -> bool:
        return any(p.device.type == "meta" for p in self.model.module.parameters())


# How many masks are scored before their losses are journaled: about as many as the user's patience allows.

FIRST = 4  # masks in the first group, after which the time of a mask is known


@dataclass
class Pace:
    """Group sizes such that a group takes about `patience` seconds.

    A group of n masks takes about a + b * n seconds. Reading weights from a disk, for example, takes the same time
    for any number of masks. If a alone exceeds the patience, at most half of a group's time is a.
    """

    patience: float
    _seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=8))

    def size(self) -> int:
        """The number of masks in the next group."""
        if not self._seen:
            return FIRST
        fixed, each = self._fitted()
        return max(1, round(max(self.patience - fixed, fixed) / each))

    def note(self, masks: int, seconds: float) -> None:
        """Note how long a group took."""
        self._seen.append((masks, max(seconds, 1e-9)))

    def _fitted(self) -> tuple[float, float]:
        """The seconds per group and per mask, by least squares over the last groups; neither is negative."""
        count = len(self._seen)
        mean_masks = sum(masks for masks, _ in self._seen) / count
        mean_seconds = sum(seconds for _, seconds in self._seen) / count
        spread = sum((masks - mean_masks) ** 2 for masks, _ in self._seen)
        if spread:
            each = (
                sum((masks - mean_masks) * (seconds - mean_seconds) for masks, seconds in self._seen) / spread
            )
            fixed = mean_seconds - each * mean_masks
            if each > 0 and fixed > 0:
                return fixed, each
        return 0.0, mean_seconds / mean_masks


# The devices of a model: their free memory, their peak use, and how precisely they compute.

WORKSPACE = (
    "CUBLAS_WORKSPACE_CONFIG",
    ":4096:8",
)  # without this setting, cuBLAS can add numbers in a different order in each run


def exact(tf32: bool = False) -> None:
    """Make equal batches give bitwise equal losses, and compute float32 products in full float32 precision.

    If `tf32` is true, a GPU may round the factors of float32 products to 10 mantissa bits, which is faster.
    Operations without a deterministic kernel still run. Call this before the first matrix product on a GPU.
    """
    os.environ.setdefault(*WORKSPACE)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    # Sums of half-precision products stay in float32 until they are complete.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if torch.cuda.is_available():
        # Deterministic mode also fills new memory by default, which costs a second write per result: turn that off.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")


def devices(module: nn.Module) -> list[torch.device]:
    """The devices that hold a model's weights; the CPU if all weights are on disk."""
    occupied = {parameter.device for parameter in module.parameters() if parameter.device.type != "meta"}
    return sorted(occupied, key=str) or [torch.device("cpu")]


def free_memory(module: nn.Module) -> int:
    """The bytes that are free now on the model's device with the least free memory."""
    return min(map(_free, devices(module)))


def _free(device: torch.device) -> int:
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    # Memory that PyTorch has reserved but does not use is free, too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def peak_memory(module: nn.Module) -> int:
    """The peak memory so far, in bytes, summed over the model's GPUs; without GPUs, that of the whole process."""
    gpus = [device for device in devices(module) if device.type == "cuda"]
    if gpus:
        return sum(int(torch.cuda.max_memory_allocated(device)) for device in gpus)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(used: Iterable[torch.device]) -> None:
    """Wait until these devices have finished their queued work, so that a clock can be read."""
    for device in used:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out, on a device or the CPU."""
    return "memory" in str(error).lower()

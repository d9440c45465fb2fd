"""Forecast how long the measurements take here, and how much memory, without loading a model.

A token costs about two operations per parameter that is kept. How many operations this machine does in a second is
measured with products of matrices. A model's passes reach about `REACHED` of that, so all times are rough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from pruning.models.float32_products import HALVES, float32_is_faster
from pruning.published.plan import Request

REACHED = 0.5
EACH = 0.5  # seconds that a measurement takes whatever its size
TOKENS = {"wikitext2": 340_000, "c4": 525_000}  # of a text that is not here: with Llama-2's tokenizer
OTHER = 300_000
SIZES = {"float32": 4, "float64": 8}  # bytes of a weight; 2 for the others
HEAD = 1.15  # weights, plus hidden states and logits of a batch


@dataclass(frozen=True)
class Forecast:
    """Seconds, bytes and tokens of the measurements of one model in one precision."""

    model: str
    dtype: str
    count: int
    tokens: int
    seconds: float
    memory: int


def forecast(requests: Sequence[Request], tokens_of: Callable[[Request], int | None]) -> list[Forecast]:
    """One forecast for each model and precision. `tokens_of` counts a request's tokens; None if it cannot."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.model.name, request.protocol.dtype), []).append(request)
    rates = {dtype: operations_per_second(dtype) for dtype in {dtype for _, dtype in groups}}
    return [_forecast(part, dtype, rates[dtype], tokens_of) for (_, dtype), part in groups.items()]


def _forecast(
    requests: Sequence[Request], dtype: str, rate: float, tokens_of: Callable[[Request], int | None]
) -> Forecast:
    model, work, total = requests[0].model, 0.0, 0
    for request in requests:
        tokens = tokens_of(request) or _usual(request)
        kept = 1 - len(request.mask.dropped) / request.mask.n_units
        total += tokens
        work += 2.0 * model.parameters * kept * tokens
    seconds = EACH * len(requests) + work / (REACHED * rate)
    memory = int(HEAD * model.parameters * SIZES.get(dtype, 2))
    return Forecast(model.name, dtype, len(requests), total, seconds, memory)


def _usual(request: Request) -> int:
    """The number of tokens of a text that is not here."""
    windows = request.protocol.windows
    most = TOKENS.get(request.corpus, OTHER)
    return most if windows is None else min(most, windows * request.protocol.window)


def operations_per_second(dtype: str, seconds: float = 0.3) -> float:
    """How many multiplications and additions this machine does, in products of matrices of this type."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, width = (4096, 8192) if device == "cuda" else (512, 2048)
    kind = getattr(torch, dtype)
    if device == "cpu" and kind in HALVES and float32_is_faster(kind):
        kind = torch.float32
    a, b = (torch.ones(shape, dtype=kind, device=device) for shape in ((rows, width), (width, width)))
    _product(a, b)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or done < 1:
        _product(a, b)
        done += 1
    return done * 2.0 * rows * width * width / (time.perf_counter() - started)


def _product(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.matmul(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()


def free_bytes() -> int:
    """The bytes that are free on the GPU with the most, or in memory if there is no GPU."""
    if torch.cuda.is_available():
        return max(int(torch.cuda.mem_get_info(i)[0]) for i in range(torch.cuda.device_count()))
    return int(psutil.virtual_memory().available)

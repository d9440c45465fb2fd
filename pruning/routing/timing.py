"""Seconds to read a prompt: the dense model, the model without the routed set, and the router itself."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from pruning.core.mask import Mask
from pruning.routing.encoders import Encoder
from pruning.routing.prompts import prompt_rows
from pruning.routing.router import FittedRouter, routes

REPEATS = 5


class Prefill(TypedDict):
    """Mean seconds per prompt; of each prompt, the median of the repeats counts."""

    prompts: int
    tokens: float
    dense: float
    pruned: float
    router: float


@dataclass(frozen=True)
class Reader:
    """A model in memory, its tokenizer, and a router with its encoder."""

    module: Any
    tokenizer: Any
    router: FittedRouter
    encoder: Encoder


def prefill(reader: Reader, prompts: Sequence[str]) -> Prefill:
    """Time the prefill of each prompt alone: dense, without the set that the router chooses, and the router.

    The three take turns. The pruned model is the one that would be exported; the router runs its first blocks apart,
    so a server that keeps their states would need less.
    """
    from pruning.models.physical_removal import blocks_removed, smaller_config

    masks = list(reader.router.sets.values())
    chosen = routes(reader.router.predict(reader.encoder, prompts))
    smaller = {mask: smaller_config(reader.module, mask) for mask in {masks[number] for number in chosen}}
    times: list[tuple[float, float, float]] = []
    for prompt, number in zip(prompts, chosen, strict=True):
        mask = masks[number]

        def without(mask: Mask = mask) -> AbstractContextManager[None]:
            return blocks_removed(reader.module, mask, smaller[mask])

        times.append(_three(reader, prompt, without))
    dense, pruned, router = np.mean(times, axis=0)
    lengths = [len(row.input_ids) for row in prompt_rows(reader.tokenizer, prompts)]
    return Prefill(
        prompts=len(prompts),
        tokens=float(np.mean(lengths)),
        dense=float(dense),
        pruned=float(pruned),
        router=float(router),
    )


def _three(
    reader: Reader, prompt: str, without: Callable[[], AbstractContextManager[None]]
) -> tuple[float, float, float]:
    """The median seconds of the three for one prompt, after a round that is not counted."""
    import torch

    from pruning.models.block_probe import input_device

    (row,) = prompt_rows(reader.tokenizer, [prompt])
    ids = torch.tensor([row.input_ids]).to(input_device(reader.module))
    rounds = []
    for _ in range(REPEATS + 1):
        dense = _timed(lambda: _read(reader.module, ids))
        with without():
            pruned = _timed(lambda: _read(reader.module, ids))
        rounds.append((dense, pruned, _timed(lambda: reader.router.predict(reader.encoder, [prompt]))))
    dense, pruned, router = np.median(rounds[1:], axis=0)
    return float(dense), float(pruned), float(router)


def _read(module: Any, ids: Any) -> Any:
    """Read a prompt as a generation does: with a cache, and logits of the last position only."""
    import torch

    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(module.forward).parameters else {}
    with torch.inference_mode():
        return module(input_ids=ids, use_cache=True, **last).logits


def _timed(run: Callable[[], Any]) -> float:
    import torch

    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started

"""Generation with a clock: the time to the first token, and that of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pruning.evaluation.memory import Peak
from pruning.models import quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Values = dict[str, list[float]]
Contexts: TypeAlias = Mapping[str, Callable[[], AbstractContextManager[None]]]


@dataclass(frozen=True)
class Rounds:
    """`new_tokens` are generated `repeats` times, after `warmup` rounds that are not measured."""

    new_tokens: int
    repeats: int
    warmup: int


def alternating(model: Any, contexts: Contexts, batch: int, prompt: int, by: Rounds) -> dict[str, Values]:
    """What was measured in each context, repeat by repeat, the contexts in turn."""
    import torch

    from pruning.models.blocks import input_device

    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (batch, prompt), generator=generator).to(input_device(model))
    found: dict[str, Values] = {which: {} for which in contexts}
    for repeat in range(by.warmup + by.repeats):
        for which in list(contexts)[:: 1 if repeat % 2 == 0 else -1]:
            with contexts[which](), quiet.quiet():
                values = _timed(model, ids, by.new_tokens)
            if repeat >= by.warmup:
                for name, value in values.items():
                    found[which].setdefault(name, []).append(value)
    return found


def _timed(model: Any, ids: Tensor, new_tokens: int) -> dict[str, float]:
    """One generation: tokens per second of the prompt and behind the first new token, and the memory on top."""
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList

    times: list[float] = []

    def note(sequences: Tensor, *_: Any, **__: Any) -> Tensor:
        _wait(ids.device)
        times.append(time.perf_counter())
        return torch.zeros(len(sequences), dtype=torch.bool, device=sequences.device)

    settings = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    peak = Peak(ids.device)
    peak.start()
    _wait(ids.device)
    begun = time.perf_counter()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(use_cache=True, **settings),
        stopping_criteria=StoppingCriteriaList([note]),
    )
    extra = peak.extra()
    first, rest = times[0] - begun, times[-1] - times[0]
    return {
        "prefill_per_second": ids.numel() / first,
        "decode_per_second": len(ids) * (len(times) - 1) / rest,
        "first_token_seconds": first,
        **({} if extra is None else {"extra_memory": extra}),
    }


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()

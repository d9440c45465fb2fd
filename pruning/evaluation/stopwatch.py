"""Time the generation of text: the time until the first new token, and the time for all later tokens."""

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
    """First, `warmup` rounds are not measured; then, `repeats` rounds are. Each generates `new_tokens` tokens."""

    new_tokens: int
    repeats: int
    warmup: int


def alternating(model: Any, contexts: Contexts, batch: int, prompt: int, rounds: Rounds) -> dict[str, Values]:
    """The measured values by context and name, one per repeat. The contexts take turns."""
    import torch

    from pruning.models.block_probe import input_device

    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (batch, prompt), generator=generator).to(input_device(model))
    measured: dict[str, Values] = {which: {} for which in contexts}
    for repeat in range(rounds.warmup + rounds.repeats):
        for which in list(contexts)[:: 1 if repeat % 2 == 0 else -1]:
            with contexts[which](), quiet.quiet():
                values = _timed(model, ids, rounds.new_tokens)
            if repeat >= rounds.warmup:
                for name, value in values.items():
                    measured[which].setdefault(name, []).append(value)
    return measured


def _timed(model: Any, ids: Tensor, new_tokens: int) -> dict[str, float]:
    """Time one generation.

    Returns prompt tokens per second, new tokens per second after the first new token, the seconds until that token,
    and the bytes of extra memory if they are known.
    """
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
    """Wait until the device has finished its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()

"""Measure how long each unit of a model takes on this device, as the costs of a budget.

Source: Puzzle (arXiv 2411.19146) measures each sub-block once on the target hardware, in the target scenario, and
adds the times up to the time of a model.
"""

from __future__ import annotations

import statistics
import time

import torch

from pruning.models.block_probe import input_device
from pruning.models.blocks import enter
from pruning.models.loader import LanguageModel
from pruning.models.units import find_chain


@torch.inference_mode()
def unit_times(model: LanguageModel, unit: str, shape: tuple[int, int], repeats: int) -> list[float]:
    """The median seconds of each unit, on random tokens of a shape (sequences, tokens).

    All units are timed in turn, and then again, so that a slowdown of the machine affects all of them.
    """
    chain = find_chain(model.module, unit)
    vocabulary = int(model.module.config.get_text_config(decoder=True).vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, shape, generator=generator).to(input_device(model.module))
    entry = enter(model.module, input_ids=ids)
    taken: list[list[float]] = [[] for _ in range(len(chain))]
    for turn in range(repeats + 1):
        hidden = entry.hidden
        for index, seconds in enumerate(taken):
            _wait()
            started = time.perf_counter()
            hidden = chain.run(index, hidden, entry)
            _wait()
            if turn:  # the first turn only warms up
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def _wait() -> None:
    """Wait until a GPU has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()

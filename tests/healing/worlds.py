"""What tests of healing share: a tiny language model, a text that can be learnt, and short settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.core.mask import Mask
from pruning.healing.heal_settings import Distill, Full, Lora
from pruning.healing.loop import SmallerModel, Trainer, smaller_model
from pruning.healing.training_text import HealingText, packed
from pruning.models.handle import LanguageModel, wrapped
from tests.helpers.architectures import N_BLOCKS, build

VOCABULARY = 97
SHORT: dict[str, Any] = {
    "tokens": 640,
    "length": 16,
    "batch_tokens": 64,
    "micro_tokens": 32,
    "lr": 1e-2,
    "warmup": 2,
    "heldout": 4,
    "eval_every": 2,
    "patience": 0,
}
MASK = Mask(N_BLOCKS, (1, 4))
PARTS = Mask(N_BLOCKS, (2, 5, 8, 9), "sublayer")  # attention of block 1, MLP of block 2, all of block 4


def tiny(name: str = "llama") -> LanguageModel:
    return wrapped(build(name), "tiny")


def lora(**changes: Any) -> Lora:
    return Lora(**{**SHORT, "rank": 4, "alpha": 8.0, **changes})


def full(**changes: Any) -> Full:
    return Full(**{**SHORT, "lr": 3e-3, **changes})


def distill(**changes: Any) -> Distill:
    return Distill(**{**SHORT, "rank": 4, "alpha": 8.0, **changes})


def text(settings: Any, windows: int = 60) -> HealingText:
    """Windows of a sequence in which each token depends on the one before, so that training lowers the loss."""
    rng = np.random.default_rng(0)
    ids = [1]
    for _ in range(windows * settings.length):
        ids.append(int((ids[-1] * 5 + rng.integers(0, 3)) % VOCABULARY))
    return packed(ids, (), settings, "a made-up text")


def trainer(settings: Any = None, smaller: SmallerModel | None = None) -> Trainer:
    """A trainer of all weights of a smaller model."""
    chosen, student = settings or full(), smaller or smaller_model(tiny(), MASK)
    return Trainer(student, list(student.block_weights().values()), text(chosen), chosen)

"""Check the numbers in the settings of healing, and that the package for LoRA is installed."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from pruning.core.errors import InputError
from pruning.healing.halving import budgets

LEAST = {"tokens": 1, "length": 8, "batch_tokens": 1, "micro_tokens": 1, "heldout": 1, "eval_every": 1}
LEAST |= {"candidates": 1, "round_tokens": 1, "checkpoint_every": 1, "warmup": 0, "patience": 0, "seed": 0}


def check_peft() -> None:
    """Raise InputError if the package for LoRA is not installed."""
    if find_spec("peft") is None:
        raise InputError(
            "healing with LoRA needs the package peft, which is not installed: run `pip install peft`, or "
            "train all weights with heal=full."
        )


def check_numbers(settings: Any) -> None:
    """Raise InputError, which names the value, if a number is out of range."""
    for name, least in LEAST.items():
        if (value := getattr(settings, name)) < least:
            raise InputError(f"heal.{name}={value} is too small: choose {least} or more.")
    for name in ("lr", "clip"):
        if (value := getattr(settings, name)) is not None and not 0 < value < math.inf:
            raise InputError(f"heal.{name}={value:g} is out of range: choose a number above 0.")
    for name, most in (("decay", 1.0), ("weight_decay", math.inf)):
        if not 0 <= (value := getattr(settings, name)) <= most:
            raise InputError(f"heal.{name}={value:g} is out of range: choose 0 to {most:g}.")
    if (rank := getattr(settings, "rank", 1)) < 1:
        raise InputError(f"heal.rank={rank} is too small: choose 1 or more.")


def check_rounds(settings: Any) -> None:
    """Raise InputError if candidates would be healed on less than a step, or on more than the whole budget."""
    if settings.candidates == 1:
        return
    step, rounds = settings.windows * settings.length, budgets(settings.candidates, settings.round_tokens)
    if settings.round_tokens < step:
        raise InputError(
            f"heal.round_tokens={settings.round_tokens} is less than the {step} tokens of one step: choose more, or "
            "lower heal.batch_tokens."
        )
    if rounds[-1] > settings.tokens:
        raise InputError(
            f"heal.candidates={settings.candidates} needs {len(rounds)} rounds, and the last one heals on "
            f"{rounds[-1]} tokens, which is more than heal.tokens={settings.tokens}: lower heal.round_tokens, or "
            "raise heal.tokens."
        )

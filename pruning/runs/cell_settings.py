"""Settings of a cell that are the same for every model and search: protected blocks, and how forward passes run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.core.errors import InputError


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Protect:
    """The first `first` blocks and the last `last` blocks of the model must not be removed."""

    first: int = 0
    last: int = 0


@dataclass
class ForwardSettings:
    """How forward passes are run. Apart from `tf32`, no setting changes more than the rounding of losses.

    `batch_tokens` is the number of tokens that a block processes at once. `memory` is the number of bytes that can
    be used besides the weights (None: a quarter of the free memory). If the process is killed, about `patience`
    seconds of work are lost. `merge` says whether several masks can run as one batch (None: only in full precision
    on a CPU, or if weights are on disk). `tf32` lets a GPU round the factors of float32 products to 10 bits.
    Because this changes losses, `tf32` is part of the cell's key if it is on. `compile` runs whole blocks through
    torch.compile. With `bounds`, a search for perplexity or divergence does not compute losses that a bound shows
    to be too high.
    """

    batch_tokens: int = 2048
    memory: int | None = None
    patience: float = 20.0
    merge: bool | None = None
    tf32: bool = False
    compile: bool = False
    bounds: bool = False

    def check(self) -> None:
        """Raise InputError if a number is out of range.

        This is a separate method because OmegaConf does not call __init__.
        """
        for name, least in (("batch_tokens", 1), ("memory", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"forward.{name}={value} is too small: choose {least} or more.")
        if not 0 < self.patience < math.inf:
            raise InputError(f"forward.patience={self.patience:g} is out of range: choose seconds above 0.")
        if self.compile:
            from pruning.models.compiled import check_compiler

            check_compiler()

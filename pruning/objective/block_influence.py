"""Block Influence. Source: ShortGPT (arXiv 2403.03853, equation 1); with `by="run"`, LLM-Streamline (2403.19135).

ShortGPT's code takes the last block's output after the final norm, and so overstates the importance of
this block. Here the output is taken before the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import check_known
from pruning.objective import Forward, Loss, Samples, Tensor
from pruning.objective._criteria import BY, between_states


@dataclass(frozen=True)
class BlockInfluence:
    """1 - mean over tokens of the cosine between h_i and h_j, the states before and after a removed block or run."""

    needs: ClassVar[str] = "any"
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""

        def turn(a: Tensor, b: Tensor) -> Tensor:
            from torch.nn.functional import cosine_similarity

            return 1.0 - cosine_similarity(a.double(), b.double(), dim=-1).mean()

        return between_states(forward, samples, turn, self.by)

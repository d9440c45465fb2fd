"""Block Influence: how much a block changes the direction of the hidden state.

Source: ShortGPT (arXiv 2403.03853, equation 1). ShortGPT's code takes the last block's output after the final norm,
which makes this block look more important than it is. Here the output is taken before the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import check_known
from pruning.objective import Forward, Loss, Samples, Tensor, _criteria


@dataclass(frozen=True)
class BlockInfluence:
    """1 - mean over tokens of the cosine between the states before and after a block.

    `by="run"` compares the states before and after each run of removed blocks, as LLM-Streamline (2403.19135) does.
    """

    needs: ClassVar[str] = "any"
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=_criteria.BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, from one dense pass, with one term per sample."""
        return _criteria.between_states(forward, samples, _turn, self.by)


def _turn(a: Tensor, b: Tensor) -> float:
    """1 - the mean cosine between two states (T, D)."""
    from torch.nn.functional import cosine_similarity

    return 1.0 - float(cosine_similarity(a.double(), b.double(), dim=-1).mean())

"""What a router sees of a prompt: the mean state over its tokens, and the state of its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pruning.core.errors import UnreachableError, first_line
from pruning.core.hub import use_hub
from pruning.models.loader import context_length_of
from pruning.routing.prompts import prompt_rows
from pruning.routing.scores import Floats
from pruning.routing.settings import RouterSettings

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

BATCH = 16  # prompts that a hub encoder reads at once


class Encoder(Protocol):
    """The interface of an encoder."""

    def encode(self, prompts: Sequence[str]) -> Floats:
        """One row of features per prompt (prompts, features)."""
        ...


@dataclass(frozen=True)
class StateEncoder:
    """The states of the model itself after its first `blocks` blocks (0: the embeddings), which all sets keep.

    The first token is left out of the mean: many models put a large state there, whatever the prompt says.
    """

    forward: Forward
    tokenizer: Any
    blocks: int
    most: int | None = None  # tokens that the model reads

    def encode(self, prompts: Sequence[str]) -> Floats:
        """Features (prompts, 2 D), in float64. Raises InputError as `prompt_rows` does."""
        from pruning.engine.dense_pass import states

        rows = prompt_rows(self.tokenizer, prompts, self.most)
        found: dict[int, Floats] = {}
        for lines, hidden in states(self.forward, rows, stop=self.blocks):
            for line in lines:
                state = hidden[-1][line.index, : line.length].double().cpu().numpy()
                found[line.row] = np.concatenate([state[1:].mean(axis=0), state[-1]])
        return np.array([found[number] for number in range(len(rows))])


@dataclass(frozen=True)
class HubEncoder:
    """The last states of an encoder such as BERT, from a directory or a hub."""

    module: Any
    tokenizer: Any

    @classmethod
    def load(cls, path: str) -> HubEncoder:
        """Load the encoder. Raises UnreachableError if it cannot be reached."""
        import transformers

        from pruning.models.quiet import quiet

        use_hub()
        try:
            with quiet():
                tokenizer = transformers.AutoTokenizer.from_pretrained(path)
                module = transformers.AutoModel.from_pretrained(path, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UnreachableError(
                f"router.path={path} cannot be loaded ({first_line(error)}): check the name and the network, give a "
                "directory, or use router.encoder=states."
            ) from error
        return cls(module.eval(), tokenizer)

    def encode(self, prompts: Sequence[str]) -> Floats:
        """Features (prompts, 2 D), in float64. A prompt that is too long for the encoder is cut at its end."""
        parts = [self._batch(prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
        return np.concatenate(parts)

    def _batch(self, prompts: Sequence[str]) -> Floats:
        import torch

        inputs = self.tokenizer(list(prompts), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            hidden = self.module(**inputs).last_hidden_state.double()
        weights = inputs["attention_mask"][:, :, None].double()
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return np.asarray(torch.cat([mean, hidden[:, 0]], dim=1).numpy())


def encoder_of(settings: RouterSettings, forward: Forward, tokenizer: Any, blocks: int) -> Encoder:
    """The encoder that the settings of a router choose. Raises UnreachableError as `HubEncoder.load` does."""
    if settings.encoder == "hub":
        return HubEncoder.load(settings.path)
    return StateEncoder(forward, tokenizer, blocks, context_length_of(forward.model.module.config))

"""What a router sees of a prompt: the mean state over its tokens, and the state of its last token."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pruning.models.loader import context_length_of
from pruning.routing.encoder_files import encoder_revision, load_part
from pruning.routing.prompts import prompt_rows
from pruning.routing.scores import Floats
from pruning.routing.settings import RouterSettings

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

BATCH = 16  # prompts that a hub encoder reads at once


class Encoder(Protocol):
    """The interface of an encoder."""

    @property
    def revision(self) -> str | None:
        """What identifies the files of a hub encoder; None for other encoders."""
        ...

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

    revision: ClassVar[str | None] = None  # a router's model is identified apart

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
    revision: str | None

    @classmethod
    def load(cls, path: str) -> HubEncoder:
        """Load the encoder. Raises UnreachableError if it cannot be reached."""
        tokenizer = load_part("AutoTokenizer", path)
        if tokenizer.pad_token_id is None:  # any token will do, because the attention mask leaves padding out
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        module = load_part("AutoModel", path, use_safetensors=True).eval()
        return cls(module, tokenizer, encoder_revision(path))

    def encode(self, prompts: Sequence[str]) -> Floats:
        """Features (prompts, 2 D), in float64. A prompt that is too long for the encoder is cut at its end."""
        parts = [self._batch(prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
        return np.concatenate(parts)

    def _batch(self, prompts: Sequence[str]) -> Floats:
        import torch

        inputs = self.tokenizer(
            list(prompts),
            return_tensors="pt",
            return_attention_mask=True,
            padding=True,
            padding_side="right",  # the first state below must be that of the first token
            truncation=True,
            max_length=min(self.tokenizer.model_max_length, _longest(self.module)),
        )
        with torch.inference_mode():
            hidden = self.module(**inputs).last_hidden_state.double()
        weights = inputs["attention_mask"][:, :, None].double()
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return np.asarray(torch.cat([mean, hidden[:, 0]], dim=1).numpy())


def _longest(module: Any) -> int:
    """The longest input, in tokens, for which an encoder has positions."""
    positions = context_length_of(module.config) or sys.maxsize
    table = getattr(getattr(module, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its descendants number the positions from the one after that of padding.
    return positions if padding is None else positions - padding - 1


def encoder_of(settings: RouterSettings, forward: Forward, tokenizer: Any, blocks: int) -> Encoder:
    """The encoder that the settings of a router choose. Raises UnreachableError as `HubEncoder.load` does."""
    if settings.encoder == "hub":
        return HubEncoder.load(settings.path)
    return StateEncoder(forward, tokenizer, blocks, context_length_of(forward.model.module.config))

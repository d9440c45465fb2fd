"""What a router sees of a prompt: the mean state over its tokens, and the state of its last token."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.samples import Row
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.mask import Mask
from pruning.core.wheels import commit_of, use_hub
from pruning.models.architecture import context_length_of
from pruning.models.model_files import INDEX, SINGLE, model_digest, weight_files
from pruning.routing.router_settings import RouterSettings
from pruning.routing.set_scores import Floats

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


BATCH = 16  # prompts that a hub encoder reads at once
SHARE = 4  # by default, a router runs at most one block in so many


Encoder: TypeAlias = "StateEncoder | HubEncoder"


def encoder_of(settings: RouterSettings, forward: Forward, tokenizer: Any, blocks: int) -> Encoder:
    """The encoder that the settings of a router choose. Raises UnreachableError as `HubEncoder.load` does."""
    if settings.encoder == "hub":
        return HubEncoder.load(settings.path)
    return StateEncoder(forward, tokenizer, blocks, context_length_of(forward.model.module.config))


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


def prompt_rows(tokenizer: Any, prompts: Sequence[str], most: int | None = None) -> list[Row]:
    """The rows of prompts. Raises InputError if a prompt has fewer than two tokens, or more than `most`."""
    first = start_tokens(tokenizer)
    rows = []
    for prompt in prompts:
        ids = (*first, *tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
        if len(ids) < 2:
            raise InputError(f"the prompt {prompt!r} has fewer than two tokens: give a longer one.")
        if most is not None and len(ids) > most:
            raise InputError(
                f"the prompt {prompt[:40]!r}... has {len(ids)} tokens, and the model reads at most {most}: "
                "shorten it."
            )
        rows.append(Row(ids, (len(ids) - 1, len(ids))))
    return rows


def prompts(template: str, items: Sequence[Item]) -> tuple[str, ...]:
    """The prompts of items: the template with each question."""
    return tuple(template.replace(FIELD, item.question) for item in items)


def first_blocks(masks: Sequence[Mask], wanted: int | None) -> int:
    """How many blocks at the beginning a router runs: `wanted`, or as many as no mask drops, up to a quarter of all.

    Raises InputError if a mask drops a part of one of the `wanted` blocks.
    """
    n_blocks, per_block = masks[0].n_blocks, masks[0].n_units // masks[0].n_blocks
    kept = min((mask.dropped[0] // per_block for mask in masks if mask.dropped), default=n_blocks)
    if wanted is None:
        return min(kept, n_blocks // SHARE)
    if wanted > kept:
        raise InputError(
            f"router.blocks={wanted}: a set drops block {kept} or a part of it, so at most {kept} blocks can be run "
            f"for all sets: choose {kept} or fewer."
        )
    return wanted


# An encoder such as BERT, from a directory or a hub: read, identified, and checked before a search.


@dataclass(frozen=True)
class HubEncoder:
    """The last states of an encoder."""

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
        import torch

        parts = []
        for start in range(0, len(prompts), BATCH):
            inputs = self.tokenizer(
                list(prompts[start : start + BATCH]),
                return_tensors="pt",
                return_attention_mask=True,
                padding=True,
                padding_side="right",  # the first state below must be that of the first token
                truncation=True,
                max_length=min(self.tokenizer.model_max_length, self._longest),
            )
            with torch.inference_mode():
                hidden = self.module(**inputs).last_hidden_state.double()
            weights = inputs["attention_mask"][:, :, None].double()
            mean = (hidden * weights).sum(1) / weights.sum(1)
            parts.append(np.asarray(torch.cat([mean, hidden[:, 0]], dim=1).numpy()))
        return np.concatenate(parts)

    @property
    def _longest(self) -> int:
        """The longest input, in tokens, for which the encoder has positions."""
        positions = context_length_of(self.module.config) or sys.maxsize
        table = getattr(getattr(self.module, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        # RoBERTa and its descendants number the positions from the one after that of padding.
        return positions if padding is None else positions - padding - 1


def check_encoder(settings: RouterSettings, n_blocks: int) -> None:
    """Check the encoder of a router for a model of `n_blocks` blocks; no weights are read.

    Raises InputError if the model has too few blocks or a directory holds no weights, and UnreachableError if the
    configuration or the tokenizer of a hub encoder cannot be loaded.
    """
    if settings.blocks is not None and settings.blocks > n_blocks:
        raise InputError(
            f"router.blocks={settings.blocks}: the model has {n_blocks} blocks, and every set drops some of them: "
            "choose fewer."
        )
    if settings.encoder != "hub":
        return
    for kind in ("AutoConfig", "AutoTokenizer"):
        load_part(kind, settings.path)
    if (folder := Path(settings.path).expanduser()).is_dir() and not weight_files(folder):
        raise InputError(
            f"router.path={settings.path} holds neither {SINGLE} nor {INDEX}: give a directory that save_pretrained "
            "wrote."
        )


def encoder_revision(path: str) -> str | None:
    """The digest of an encoder's directory, or its commit on the hub; no weights are loaded.

    Raises InputError or UnreachableError if the encoder cannot be read.
    """
    if Path(path).expanduser().is_dir():
        return model_digest(path)
    load_part("AutoConfig", path)
    return commit_of(path)


def load_part(kind: str, path: str, **options: Any) -> Any:
    """What a class of transformers, such as AutoTokenizer, loads. Raises UnreachableError if it cannot."""
    import transformers

    from pruning.models.kept_models import quiet

    use_hub()
    folder = Path(path).expanduser()
    place = str(folder) if folder.is_dir() else path
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(place, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"router.path={path} cannot be loaded ({first_line(error)}): check the name and the network, give a "
            "directory, or use router.encoder=states."
        ) from error

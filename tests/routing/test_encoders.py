"""A hub encoder reads every prompt: whatever padding its tokenizer has, and however long the prompt is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.routing.encoders import HubEncoder
from tests.helpers.encoders import encoder_folder

PROMPTS = ["Which of these tools is it, and why is it so?", "Why?", "Go on!!!"]


def alone(encoder: HubEncoder, tokenizer: Any, prompt: str, most: int) -> Any:
    """The features of a prompt that is read by itself, from its first `most` tokens, without any padding."""
    ids = tokenizer(prompt, add_special_tokens=False).input_ids[:most]
    with torch.inference_mode():
        states = encoder.module(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
    return np.concatenate([states.mean(0).numpy(), states[0].numpy()])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("end", [None, 7])
def test_a_tokenizer_without_padding_gets_some(
    tmp_path: Path, tokenizer: Any, end: int | None, side: str
) -> None:
    own = copy.deepcopy(tokenizer)
    own.padding_side = side
    if end is not None:
        own.eos_token = own.convert_ids_to_tokens(end)
    encoder = HubEncoder.load(str(encoder_folder(tmp_path, own)))
    features = encoder.encode(PROMPTS)
    for prompt, found in zip(PROMPTS, features, strict=True):
        assert found == pytest.approx(alone(encoder, own, prompt, 99), abs=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("Bert", 6), ("Roberta", 4)])
def test_a_prompt_that_is_too_long_is_cut_at_its_end(
    tmp_path: Path, tokenizer: Any, kind: str, most: int
) -> None:
    """RoBERTa's positions start at 2 if its padding is token 1."""
    folder = encoder_folder(tmp_path, tokenizer, kind, max_position_embeddings=6)
    encoder = HubEncoder.load(str(folder))
    assert encoder.encode(PROMPTS)[0] == pytest.approx(alone(encoder, tokenizer, PROMPTS[0], most), abs=1e-5)

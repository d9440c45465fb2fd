"""What encoders read of prompts, and that what is wrong with a hub encoder is found without its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.core.errors import InputError, PruningError, UnreachableError
from pruning.core.mask import Mask
from pruning.routing.encoders import HubEncoder, check_encoder, encoder_revision, first_blocks, prompt_rows
from pruning.routing.router_settings import RouterSettings
from tests.helpers.encoders import encoder_folder
from tests.helpers.hub_cache import cached

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
    for prompt, found in zip(PROMPTS, encoder.encode(PROMPTS), strict=True):
        assert found == pytest.approx(alone(encoder, own, prompt, 99), abs=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("Bert", 6), ("Roberta", 4)])
def test_a_prompt_that_is_too_long_is_cut_at_its_end(
    tmp_path: Path, tokenizer: Any, kind: str, most: int
) -> None:
    """RoBERTa's positions start at 2 if its padding is token 1."""
    folder = encoder_folder(tmp_path, tokenizer, kind, max_position_embeddings=6)
    encoder = HubEncoder.load(str(folder))
    assert encoder.encode(PROMPTS)[0] == pytest.approx(alone(encoder, tokenizer, PROMPTS[0], most), abs=1e-5)


def test_a_part_that_is_missing_is_found(tmp_path: Path, tokenizer: Any) -> None:
    check_encoder(RouterSettings(path="/nothing"), 6)  # the path is not used
    folder = encoder_folder(tmp_path, tokenizer)
    settings = RouterSettings(encoder="hub", path=str(folder), blocks=6)
    check_encoder(settings, 6)
    with pytest.raises(InputError, match=r"router\.blocks=6: .* 5 blocks"):
        check_encoder(settings, 5)
    removed: list[tuple[str, type[PruningError]]] = [("model.safetensors", InputError)]
    for name, kind in (*removed, ("config.json", UnreachableError)):
        (folder / name).unlink()
        with pytest.raises(kind, match=r"router\.path="):
            check_encoder(settings, 6)


def test_the_revision_is_that_of_the_weights_or_of_the_hub(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, same, other = (
        encoder_revision(str(encoder_folder(tmp_path / name, tokenizer, seed=seed)))
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert first == same != other
    cached(tmp_path, monkeypatch, "some/encoder", {"config.json": b"{}"}, commit := "b" * 40)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: None)
    assert encoder_revision("some/encoder") == commit


def test_a_router_runs_only_blocks_that_every_set_keeps() -> None:
    sets = [Mask(20, (9, 12)), Mask(20, (3, 4))]
    assert first_blocks(sets, None) == 3
    assert first_blocks([Mask(20, (9,))], None) == 5, "at most a quarter"
    assert first_blocks([Mask(20, (7, 30), "sublayer")], None) == 3, "a part of block 3 is dropped"
    assert first_blocks([Mask(20, (0,))], None) == 0
    assert first_blocks(sets, 2) == 2
    with pytest.raises(InputError, match=r"router\.blocks=4: .*choose 3 or fewer"):
        first_blocks(sets, 4)


def test_prompts_that_are_too_short_or_too_long_are_refused(tokenizer: Any) -> None:
    assert len(prompt_rows(tokenizer, ["What is it?"])[0].input_ids) > 2
    with pytest.raises(InputError, match="fewer than two tokens"):
        prompt_rows(tokenizer, [""])
    with pytest.raises(InputError, match="at most 4"):
        prompt_rows(tokenizer, ["What is it, and why is it so?"], 4)

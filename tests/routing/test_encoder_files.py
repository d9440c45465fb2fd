"""What is wrong with an encoder is found without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError, PruningError, UnreachableError
from pruning.routing.encoders import check_encoder, encoder_revision
from pruning.routing.router_settings import RouterSettings
from tests.helpers.encoders import encoder_folder
from tests.helpers.hub_cache import cached


def test_an_encoder_that_can_be_read_is_accepted(tmp_path: Path, tokenizer: Any) -> None:
    folder = encoder_folder(tmp_path, tokenizer)
    check_encoder(RouterSettings(encoder="hub", path=str(folder), blocks=6), 6)
    check_encoder(RouterSettings(path="/nothing"), 6)  # the path is not used


@pytest.mark.parametrize("removed", ["config.json", "model.safetensors"])
def test_a_part_that_is_missing_is_found(tmp_path: Path, tokenizer: Any, removed: str) -> None:
    folder = encoder_folder(tmp_path, tokenizer)
    (folder / removed).unlink()
    with pytest.raises(PruningError, match=r"router\.path=") as caught:
        check_encoder(RouterSettings(encoder="hub", path=str(folder)), 6)
    assert isinstance(caught.value, InputError if removed == "model.safetensors" else UnreachableError)


@pytest.mark.parametrize("encoder", ["states", "hub"])
def test_more_blocks_than_the_model_has_are_refused(encoder: str) -> None:
    with pytest.raises(InputError, match=r"router\.blocks=99: the model has 6 blocks"):
        check_encoder(RouterSettings(encoder=encoder, path="/nothing", blocks=99), 6)


def test_the_revision_of_a_directory_changes_with_its_weights(tmp_path: Path, tokenizer: Any) -> None:
    first, same, other = (
        encoder_revision(str(encoder_folder(tmp_path / name, tokenizer, seed=seed)))
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert first == same
    assert first != other


def test_the_revision_of_a_name_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, monkeypatch, "some/encoder", {"config.json": b"{}"}, commit := "b" * 40)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: None)
    assert encoder_revision("some/encoder") == commit

"""Exports of healed cells: the directory is the healed smaller model, and the card says how it was healed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256, read_json
from pruning.export import model_card, request
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.healing.loop import WEIGHTS, smaller_model
from pruning.models.handle import Model
from tests.conftest import Command
from tests.healing.test_healing_launch import SEARCH, SHORT, done
from tests.helpers.architectures import N_BLOCKS, build, logits
from tests.helpers.exports import EQUAL


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "search",
    [SEARCH, ("algo=one_shot", "ratio=0.3", "unit=sublayer"), (*SEARCH, "compensation=linear")],
    ids=["blocks", "parts", "repaired"],
)
def test_an_export_is_the_healed_smaller_model(
    launch: Command, tmp_path: Path, search: tuple[str, ...]
) -> None:
    ended = launch(*search, "heal=full", *SHORT)
    result = done(ended)
    folder = ended.results / result["cell"]
    wanted = request.parse([str(folder), f"out={tmp_path / 'out'}", "healed=true"])
    assert EQUAL in export(wanted).proof
    mask = Mask.from_json(result["mask"])
    smaller = smaller_model(wanted.model.load(), mask, repair=wanted.repair)
    smaller.apply(load_file(folder / result["heal"]["folder"] / WEIGHTS))
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(written), logits(smaller.model.module), rtol=0, atol=0)
    card = card_of(tmp_path / "out")
    assert "2,048 tokens of pydoc, 8 steps" in card
    assert re.search(r"\| metric \| dense \| pruned \|.* healed \|", card)
    plain = dataclasses.replace(wanted, out=tmp_path / "plain", healed=False)
    export(plain)
    unhealed = transformers.AutoModelForCausalLM.from_pretrained(plain.out)
    assert not torch.equal(logits(unhealed), logits(written))
    with pytest.raises(InputError, match="force=true"):
        export(dataclasses.replace(plain, out=tmp_path / "out"))


def test_a_launch_exports_its_healed_model_and_replaces_an_export_of_another_healing(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    heal = (*SEARCH, "heal=lora", *SHORT)
    ended = launch(*heal, f"export={out}")
    assert f"-> {done(ended)['evaluation']['healed']['ppl/heldout']:,.2f}" in ended.out
    assert "LoRA" in card_of(out)
    longer = done(launch(*heal, "heal.tokens=4096", f"export={out}"))
    assert "4,096 tokens of pydoc" in card_of(out)
    assert read_json(out / "depth_pruning.json")["healed"] == longer["heal"]["weights_sha256"]
    (out / "README.md").write_text("mine")
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training would fail
    assert "README.md changed" in launch(*heal, "heal.tokens=3072", f"export={out}").err


def test_experts_that_are_stored_one_by_one_are_found(tmp_path: Path) -> None:
    model = build("qwen3_moe")
    model.save_pretrained(tmp_path / "dense")
    mask = Mask(N_BLOCKS, (1,))
    settings = Model("tiny", "local", str(tmp_path / "dense"), dtype="float32")
    smaller = smaller_model(settings.load_anew(), mask)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: (weight + 0.1 * torch.randn(weight.shape, generator=generator)).detach().contiguous()
        for name, weight in smaller.block_weights().items()
    }
    smaller.apply(tensors)
    (tmp_path / "cell").mkdir()
    save_file(tensors, tmp_path / "cell" / WEIGHTS)
    record = {"folder": ".", "weights_sha256": file_sha256(tmp_path / "cell" / WEIGHTS)}
    result: Any = {"cell": "cell", "heal": record, "evaluation": {"dense": {}, "pruned": {}}}
    wanted = Request(settings, mask, tmp_path / "out", result, tmp_path / "cell", healed=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_card, "model_card", lambda _: "")
        patch.setattr(model_card, "_commands", lambda *_: [])
        assert EQUAL in export(wanted).proof
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(written), logits(smaller.model.module))


def test_a_cell_that_was_not_healed_is_refused(launch: Command, tmp_path: Path) -> None:
    (result,) = launch(*SEARCH).results.glob("*/result.json")
    with pytest.raises(InputError, match="healed=true"):
        request.parse([str(result.parent), f"out={tmp_path / 'out'}", "healed=true"])

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

import pruning
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256, read_json
from pruning.export import model_card, request
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.healing.healed_files import WEIGHTS
from pruning.healing.loop import smaller_model
from pruning.models import loader, spec
from tests.conftest import Command
from tests.healing.test_launch import SEARCH, SHORT
from tests.helpers.architectures import N_BLOCKS, build

IDS = torch.randint(3, 97, (1, 12), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(
    "search",
    [SEARCH, ("algo=one_shot", "ratio=0.3", "unit=sublayer"), (*SEARCH, "compensation=linear")],
    ids=["blocks", "parts", "repaired"],
)
def test_an_export_is_the_healed_smaller_model(
    launch: Command, tmp_path: Path, search: tuple[str, ...]
) -> None:
    ended = launch(*search, "heal=full", *SHORT)
    assert ended.status == 0, ended.err
    result = ended.result()
    folder = ended.results / result["cell"]
    wanted = request.parse([str(folder), f"out={tmp_path / 'out'}", "healed=true"])
    facts = export(wanted)
    done = "masked, repaired and healed" if "compensation=linear" in search else "masked and healed"
    assert f"equal bit for bit to those of the {done} model" in facts.proof
    mask = Mask.from_json(result["mask"])
    smaller = smaller_model(loader.load(wanted.model), mask, repair=wanted.repair)
    weights = folder / result["heal"]["folder"] / WEIGHTS
    smaller.apply(load_file(weights))
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(written), logits(smaller.model.module), rtol=0, atol=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained afterwards with all their weights: 2,048 tokens of pydoc, 8 steps" in card
    assert "nothing was trained" not in card
    assert re.search(r"\| metric \| dense \| pruned \|.* healed \|", card)
    plain = dataclasses.replace(wanted, out=tmp_path / "plain", healed=None)
    export(plain)
    assert not torch.equal(
        logits(transformers.AutoModelForCausalLM.from_pretrained(plain.out)), logits(written)
    )
    with pytest.raises(InputError, match="force=true"):
        export(dataclasses.replace(plain, out=tmp_path / "out"))


def test_a_launch_with_both_exports_the_healed_model(launch: Command, tmp_path: Path) -> None:
    ended = launch(*SEARCH, "heal=lora", *SHORT, f"export={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    assert "with LoRA, whose adapters are merged" in (tmp_path / "out" / "README.md").read_text()
    healed = ended.result()["evaluation"]["healed"]["ppl/heldout"]
    assert f"-> {healed:,.2f}" in ended.out


def test_a_launch_replaces_what_its_cell_exported_with_another_healing(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    heal = (*SEARCH, "heal=full", *SHORT)
    assert launch(*heal, f"export={out}").status == 0
    longer = launch(*heal, "heal.tokens=4096", f"export={out}")
    assert longer.status == 0, longer.err
    assert "4,096 tokens of pydoc" in (out / "README.md").read_text()
    record = read_json(out / "depth_pruning.json")
    assert record["healed"] == longer.result()["heal"]["weights_sha256"]
    (out / "README.md").write_text("mine")
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training would fail
    refused = launch(*heal, "heal.tokens=3072", f"export={out}")
    assert "README.md changed after the export there was written" in refused.err
    assert longer.result()["heal"]["tokens"] == 4096


def test_an_export_of_another_cell_is_refused_before_the_training(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SEARCH, "near_ties.most=0")
    first = launch(*SEARCH, f"export={tmp_path / 'out'}").result()
    (second,) = (one for one in launch(*words).all() if one["cell"] != first["cell"])
    assert second["mask"] == first["mask"]
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training would fail
    ended = launch(*words, "heal=full", *SHORT, f"export={tmp_path / 'out'}")
    assert "holds an export of this model and mask with another healing" in " ".join(ended.err.split())
    plain = launch(*words, f"export={tmp_path / 'out'}")
    assert plain.status == 0, plain.err


def test_a_compensation_is_part_of_the_healed_model(launch: Command, tmp_path: Path) -> None:
    ended = launch(*SEARCH, "compensation=magnitude", "heal=full", *SHORT)
    assert ended.status == 0, ended.err
    folder = ended.results / ended.result()["cell"]
    facts = export(request.parse([str(folder), f"out={tmp_path / 'out'}", "healed=true"]))
    assert "of the masked and compensated model's" in facts.proof


def test_experts_that_are_stored_one_by_one_are_found(tmp_path: Path) -> None:
    model = build("qwen3_moe")
    model.save_pretrained(tmp_path / "dense")
    mask = Mask(N_BLOCKS, (1,))
    settings = spec.Model("tiny", "local", str(tmp_path / "dense"), dtype="float32")
    smaller = smaller_model(loader.load_uncached(settings), mask)
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
    wanted = Request(settings, mask, tmp_path / "out", result, healed=tmp_path / "cell")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_card, "model_card", lambda _: "")
        patch.setattr(model_card, "mergekit", lambda _: "")
        patch.setattr(model_card, "_commands", lambda *_: [])
        found = export(wanted)
    assert "equal bit for bit" in found.proof
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(written), logits(smaller.model.module))


def test_a_cell_that_was_not_healed_is_refused(launch: Command, tmp_path: Path) -> None:
    folder = launch(*SEARCH).results
    (cell,) = (path.parent for path in folder.glob("*/result.json"))
    with pytest.raises(InputError, match="healed=true needs a cell that was healed"):
        request.parse([str(cell), f"out={tmp_path / 'out'}", "healed=true"])


def test_the_front_door_heals_measures_and_exports(model_folder: Path, tmp_path: Path) -> None:
    model = pruning.load_model(model_folder, dtype="float32")
    mask = Mask(N_BLOCKS, (1, 4))
    texts = [
        f"The number {i} is before the number {i + 1}, which is before {i + 2}. " * 3 for i in range(400)
    ]
    short = {"length": 32, "batch_tokens": 256, "lr": 3e-3, "heldout": 4, "eval_every": 4}
    healed = pruning.heal_mask(model, mask, texts=texts, tokens=4096, how="full", **short)
    before, after = (pruning.measure_mask(one, mask, texts=texts[:4]) for one in (model, healed))
    assert after.pruned["ppl/texts"] < before.pruned["ppl/texts"]
    assert model.module.config.num_hidden_layers == N_BLOCKS
    pruning.export_model(healed, mask, tmp_path / "out")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with healed.masked(mask) as masked:
        assert torch.equal(logits(written), logits(masked))
    with pytest.raises(InputError, match="unknown setting of a healing 'rate'"):
        pruning.heal_mask(model, mask, texts=texts, rate=1.0)

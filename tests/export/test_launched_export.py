"""`export=DIR` and `export=FILE.gguf` of a launch: an impossible export is refused before the search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from pruning.core.mask import Mask
from pruning.export.gguf_export import card_of, export_gguf
from pruning.models.gguf import open_gguf
from pruning.models.sublayers import masked
from tests.conftest import Command
from tests.helpers import gguf_models
from tests.helpers.exports import load, logits, wanted

SMALL = ("algo=one_shot", "eval=heldout", "eval.samples=2", "eval.length=16", "eval.items=2")


def refused(launch: Command, message: str, *words: str) -> None:
    ended = launch(*words)
    assert ended.status == 2, ended.err
    assert message in " ".join(ended.err.split())
    assert ended.all() == []


def test_one_command_ends_with_a_model_its_card_and_three_lines(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    ended = launch("ratio=0.34", "export=smaller")
    assert ended.status == 0, ended.err
    result = ended.result()
    blank, quality, removed, where = ended.out.splitlines()[-4:]
    assert blank == ""
    metrics = [result["evaluation"][which] for which in ("dense", "pruned")]
    assert quality.startswith(f"quality ppl/heldout {metrics[0]['ppl/heldout']:,.2f} ± ")
    assert f" -> {metrics[1]['ppl/heldout']:,.2f} ± " in quality
    dropped = " ".join(map(str, result["mask"]["dropped"]))
    assert f"(2 of 6 blocks: {dropped})" in removed
    assert where.startswith(f"model   {tmp_path / 'smaller'} (reloaded: ")
    smaller, dense = load(Path("smaller")), load(model_folder)
    with masked(dense, Mask.from_json(result["mask"])):
        assert torch.equal(logits(smaller), logits(dense))
    assert AutoTokenizer.from_pretrained("smaller")("a b").input_ids
    assert f"Cell `{result['cell']}`" in (tmp_path / "smaller" / "README.md").read_text()
    again = launch("ratio=0.34", "export=smaller")
    assert "every cell was done" in again.err
    assert again.out.splitlines()[-3:] == [quality, removed, where]


GGUF = ("model.path=models/tiny.gguf", "export=new.gguf")  # a Llama in Q8_0
IMPOSSIBLE: dict[str, tuple[tuple[str, ...], str]] = {
    "two cells": (("-m", "k=1,2", "export=out"), "export=DIR is for one cell, and this command asks for 2"),
    "foreign": (("k=1", "export=taken"), "taken holds file"),
    "in a file": (("k=1", "export=taken/file"), "file is a file"),
    "no gguf": (("k=1", "export=new.gguf"), "is stored as safetensors"),
    "foreign gguf": (("k=1", "export=taken.gguf"), "taken.gguf exists"),
    "healed": ((*GGUF, "k=1", "heal=full"), "heal=none"),
    "maps": ((*GGUF, "k=1", "compensation=linear", "protect.first=1"), "compensation=none"),
    "factors": ((*GGUF, "k=1", "compensation=magnitude"), "compensation=none"),
    "factors of a directory": (("k=1", "compensation=magnitude", "export=out"), "compensation=magnitude"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_export_is_refused_before_the_search(
    launch: Command, tmp_path: Path, case: str
) -> None:
    words, message = IMPOSSIBLE[case]
    (tmp_path / "taken").mkdir()
    for taken in ("taken/file", "taken.gguf"):
        (tmp_path / taken).write_text("x")
    gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    refused(launch, message, *words)
    assert (tmp_path / "taken" / "file").read_text() == "x"


def test_a_cell_that_failed_is_not_exported(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("pruning.evaluation.heldout.Heldout.measure", broken)
    ended = launch("k=1", "export=out")
    assert ended.status == 1
    assert "1 of 1 cells failed" in ended.out
    assert not (tmp_path / "out").exists()


def test_a_cut_file_is_replaced_only_if_the_finished_cell_has_its_mask(
    launch: Command, tmp_path: Path
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    out = tmp_path / "smaller.gguf"
    words = (*SMALL, "k=1", f"model.path={path}", "export=smaller.gguf")
    export_gguf(wanted(path, (1, 4), out=out, verify=False))
    refused(launch, "another mask", *words)
    out.unlink()
    card_of(out).unlink()
    for _ in range(2):
        ended = launch(*words)
        assert ended.status == 0, ended.err
    assert "every cell was done" in ended.err
    record = open_gguf(out).record()
    assert record is not None
    assert record["mask"] == ended.result()["mask"]
    assert "export=FILE.gguf" in card_of(out).read_text()

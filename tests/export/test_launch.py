"""`export=DIR` of a launch: search and export in one command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruning.core.mask import Mask
from pruning.models.sublayers import masked
from tests.conftest import Command

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79]])


def test_one_command_ends_with_a_model_its_card_and_three_lines(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    ended = launch("ratio=0.34", "export=smaller")
    assert ended.status == 0, ended.err
    result = ended.result()
    blank, lost, gained, where = ended.out.splitlines()[-4:]
    assert blank == ""
    metrics = [result["evaluation"][which] for which in ("dense", "pruned")]
    assert lost.startswith(f"lost    ppl/heldout {metrics[0]['ppl/heldout']:,.2f} ± ")
    assert f" -> {metrics[1]['ppl/heldout']:,.2f} ± " in lost
    dropped = " ".join(map(str, result["mask"]["dropped"]))
    assert gained.startswith(f"gained  2 of 6 blocks removed ({dropped}), ")
    assert where.startswith(f"model   {tmp_path / 'smaller'} (reloaded: ")
    smaller = AutoModelForCausalLM.from_pretrained("smaller")
    dense = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad(), masked(dense, Mask.from_json(result["mask"])):
        assert torch.equal(smaller(IDS, use_cache=False).logits, dense(IDS).logits)
    assert AutoTokenizer.from_pretrained("smaller")("a b").input_ids
    card = (tmp_path / "smaller" / "README.md").read_text()
    assert f"Cell `{result['cell']}`" in card
    assert "| ppl/heldout | " in card
    again = launch("ratio=0.34", "export=smaller")
    assert "every cell was done" in again.err
    assert again.out.splitlines()[-3:] == [lost, gained, where]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "k=1,2", "export=out"], "export=DIR is for one cell, and this command asks for 2"),
        (["k=1", "export=taken"], "taken holds file, and no export of this version"),
        (["k=1", "export=taken/file"], "file is a file: give a directory"),
    ],
)
def test_an_impossible_export_is_refused_before_the_search(
    launch: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    ended = launch(*words)
    assert ended.status == 2
    assert message in " ".join(ended.err.split())
    assert ended.all() == []
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

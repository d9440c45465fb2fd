"""An export that would fail after the search is refused before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from pruning.core.mask import Mask
from pruning.export.gguf_export import card_of, export_gguf
from pruning.export.request import Request
from pruning.models.gguf import open_gguf
from pruning.models.model import Model
from tests.conftest import Command
from tests.helpers import gguf_models

SMALL = ("algo=one_shot", "eval=heldout", "eval.samples=2", "eval.length=16", "eval.items=2")


def refused(launch: Command, message: str, *words: str) -> None:
    ended = launch(*words)
    assert ended.status == 2, ended.err
    assert message in " ".join(ended.err.split())
    assert ended.all() == []


def test_a_cut_file_is_replaced_only_if_the_finished_cell_has_its_mask(
    launch: Command, tmp_path: Path
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    out, model = tmp_path / "smaller.gguf", Model("tiny", "local", str(path))
    words = (*SMALL, "k=1", f"model.path={path}", "export=smaller.gguf")
    export_gguf(Request(model, Mask(6, (1, 4)), out, verify=False))
    refused(launch, "smaller.gguf holds another cut (of another mask)", *words)
    out.unlink()
    card_of(out).unlink()
    for _ in range(2):
        ended = launch(*words)
        assert ended.status == 0, ended.err
    assert "every cell was done" in ended.err


def test_factors_that_an_architecture_does_not_allow_are_refused_before_the_search(
    launch: Command, tmp_path: Path, tokenizer: Any
) -> None:
    width = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 512}
    config = transformers.Olmo2Config(**width, intermediate_size=48, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "olmo2")
    tokenizer.save_pretrained(tmp_path / "olmo2")
    words = (*SMALL, "k=1", "model.path=olmo2", "compensation=magnitude", "export=out")
    refused(launch, "the compensation cannot be folded into a olmo2 model: no norm at the input", *words)
    refused(launch, "no norm at the input of block 3 is recognised", *words, "protect.first=2")


def test_factors_are_exported_at_the_end_of_a_launch(launch: Command, tmp_path: Path) -> None:
    words = (*SMALL, "k=2", "compensation=magnitude", "export=out")
    for _ in range(2):
        ended = launch(*words)
        assert ended.status == 0, ended.err
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["llama", "qwen3moe"])
def test_factors_for_quantised_tensors_are_refused_before_the_search(
    launch: Command, tmp_path: Path, kind: str
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", kind, "Q8_0")
    words = (*SMALL, "k=1", f"model.path={path}", "export=smaller.gguf", "compensation=magnitude")
    refused(launch, "blk.1.attn_output.weight is quantised (Q8_0), so nothing can be folded into it", *words)
    refused(launch, "blk.3.attn_output.weight is quantised (Q8_0)", *words, "protect.first=2")


def test_factors_are_folded_into_a_file_of_floating_point_tensors(launch: Command, tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "F16")
    ended = launch(*SMALL, "k=1", f"model.path={path}", "export=smaller.gguf", "compensation=magnitude")
    assert ended.status == 0, ended.err
    assert open_gguf(tmp_path / "smaller.gguf").n_blocks == 5


@pytest.mark.parametrize("compensation", ["linear", "magnitude"])
def test_a_quantised_gemma_is_compensated_because_its_norms_are_not_quantised(
    launch: Command, tmp_path: Path, compensation: str
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "gemma2", "Q8_0")
    file = (f"model.path={path}", "export=smaller.gguf")
    ended = launch(*SMALL, *file, "k=1", "protect.first=2", f"compensation={compensation}")
    assert ended.status == 0, ended.err
    assert open_gguf(tmp_path / "smaller.gguf").n_blocks == 5

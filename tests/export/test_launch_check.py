"""An export that would fail after the search is refused before it."""

from __future__ import annotations

from pathlib import Path

from pruning.core.mask import Mask
from pruning.export.gguf_pipeline import export_gguf
from pruning.export.gguf_target import card_of
from pruning.export.request import Request
from pruning.models import spec
from tests.conftest import Command
from tests.helpers import gguf_models

SMALL = ("k=1", "algo=one_shot", "eval=heldout", "eval.samples=2", "eval.length=16", "eval.items=2")


def refused(launch: Command, message: str, *words: str) -> None:
    ended = launch("k=1", *words)
    assert ended.status == 2, ended.err
    assert message in " ".join(ended.err.split())
    assert ended.all() == []


def test_a_cut_file_is_replaced_only_if_the_finished_cell_has_its_mask(
    launch: Command, tmp_path: Path
) -> None:
    path = gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    out, model = tmp_path / "smaller.gguf", spec.Model("tiny", "local", str(path))
    words = (*SMALL, f"model.path={path}", "export=smaller.gguf")
    export_gguf(Request(model, Mask(6, (1, 4)), out, verify=False))
    refused(launch, "smaller.gguf holds another cut (of another mask)", *words)
    out.unlink()
    card_of(out).unlink()
    for _ in range(2):
        ended = launch(*words)
        assert ended.status == 0, ended.err
    assert "every cell was done" in ended.err

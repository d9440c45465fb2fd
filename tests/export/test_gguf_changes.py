"""Changes of tensors in a cut GGUF file: parts as zeros, and compensations folded into floating-point tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import gguf_export
from pruning.export.gguf_export import export_gguf
from pruning.export.request import Request
from pruning.models.gguf import open_gguf
from pruning.models.model import Model
from pruning.models.output_maps import Repair
from tests.helpers import gguf_models

PARTS = Mask.parse(6, "a0 m1 b2 a5")
SCALES = (9.0, 1.3, 0.8, 9.0, 1.5, 9.0)
SOURCES = {old: new for new, old in enumerate([0, 1, 3, 4, 5])}


def wanted(path: Path, mask: Mask, **settings: Any) -> Request:
    return Request(Model("tiny", "local", str(path)), mask, path.with_name("out.gguf"), **settings)


def changed(path: Path, mask: Mask) -> set[tuple[int, str]]:
    """The tensors with other bytes than in the original file: old number of the block, and name."""
    before, after = open_gguf(path), open_gguf(path.with_name("out.gguf"))
    kept = [block for block in range(6) if block not in mask.gone]
    found = set()
    for tensor in after.tensors:
        block = None if tensor.block is None else kept[tensor.block]
        old = before.tensor(tensor.name if block is None else tensor.renamed(block))
        assert old is not None
        if bytes(old.data) != bytes(tensor.data):
            assert block is not None
            found.add((block, tensor.name.split(".", 2)[2]))
    return found


@pytest.mark.parametrize(
    ("kind", "type_"), [("llama", "F32"), ("qwen2", "Q8_0"), ("qwen3moe", "Q4_0"), ("gemma3", "F16")]
)
def test_parts_become_zeros_in_every_type(tmp_path: Path, kind: str, type_: str) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind, type_)
    found = export_gguf(wanted(path, PARTS))
    assert "equal bit for bit to those of the masked model" in found.proof
    down = "ffn_down_exps.weight" if kind == "qwen3moe" else "ffn_down.weight"
    assert changed(path, PARTS) == {(0, "attn_output.weight"), (1, down), (5, "attn_output.weight")}
    after = open_gguf(tmp_path / "out.gguf")
    zeros = [tensor.name for tensor in after.tensors if not tensor.data.any()]
    assert zeros == ["blk.0.attn_output.weight", f"blk.1.{down}", "blk.4.attn_output.weight"]
    assert found.idle > 0


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16"])
def test_factors_are_folded_into_outputs(tmp_path: Path, type_: str) -> None:
    path, mask = gguf_models.write(tmp_path / "tiny.gguf", "qwen2", type_), Mask(6, (1, 2, 4))
    found = export_gguf(wanted(path, mask, scales=SCALES))
    assert "of the masked and compensated model's" in found.proof
    outputs = ("attn_output.weight", "ffn_down.weight")
    assert changed(path, mask) == {(block, name) for block in (3, 5) for name in outputs}


def test_gemma_folds_factors_into_norms_also_if_it_is_quantised(tmp_path: Path) -> None:
    path, mask = gguf_models.write(tmp_path / "tiny.gguf", "gemma3", "Q8_0"), Mask(6, (1, 2))
    found = export_gguf(wanted(path, mask, scales=SCALES))
    assert "of the masked and compensated model's" in found.proof
    norms = ("post_attention_norm.weight", "post_ffw_norm.weight")
    assert changed(path, mask) == {(block, name) for block in (3, 4, 5) for name in norms}


def test_a_factor_that_is_not_folded_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_export, "_times", lambda *_: lambda data: data)
    with pytest.raises(Exception, match="its logits differ from those of the masked model"):
        export_gguf(wanted(path, Mask(6, (1,)), scales=[2.0] * 6))


@pytest.mark.parametrize(("kind", "type_"), [("llama", "F16"), ("qwen3moe", "F32")])
def test_maps_are_folded_bit_for_bit(tmp_path: Path, kind: str, type_: str) -> None:
    path, mask = gguf_models.write(tmp_path / "tiny.gguf", kind, type_), Mask(6, (1, 4))
    generator = torch.Generator().manual_seed(0)
    maps = {unit: torch.eye(64) + 0.3 * torch.randn(64, 64, generator=generator) for unit in (1, 7)}
    found = export_gguf(wanted(path, mask, repair=Repair(maps)))
    assert "equal bit for bit to those of the masked and repaired model" in found.proof
    down = "ffn_down_exps.weight" if kind == "qwen3moe" else "ffn_down.weight"
    assert changed(path, mask) == {(0, down), (3, down)}


def test_a_diagonal_is_folded_into_gemmas_norms_also_if_it_is_quantised(tmp_path: Path) -> None:
    path, mask = gguf_models.write(tmp_path / "tiny.gguf", "gemma2", "Q8_0"), Mask(6, (2, 3))
    repair = Repair({3: torch.linspace(0.5, 2, 64)})
    found = export_gguf(wanted(path, mask, repair=repair))
    assert "equal bit for bit to those of the masked and repaired model" in found.proof
    assert changed(path, mask) == {(1, "post_ffw_norm.weight")}


@pytest.mark.parametrize(
    "settings", [{"scales": SCALES}, {"repair": Repair({1: 2 * torch.eye(64)})}], ids=["scales", "maps"]
)
def test_quantised_tensors_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "llama", "Q8_0")
    with pytest.raises(InputError, match=r"is quantised \(Q8_0\), so nothing can be folded into it"):
        export_gguf(wanted(path, Mask(6, (1, 4)), **settings))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}

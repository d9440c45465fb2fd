"""Changes of tensors in a cut GGUF file: parts as zeros, and compensations folded into floating-point tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import gguf_export
from pruning.export.gguf_export import export_gguf
from pruning.models.gguf import open_gguf
from pruning.models.output_maps import Repair
from tests.helpers import gguf_models
from tests.helpers.exports import wanted

PARTS = Mask.parse(6, "a0 m1 b2 a5")
SCALES = (9.0, 1.3, 0.8, 9.0, 1.5, 9.0)
OUTPUTS = ("attn_output.weight", "ffn_down.weight")
NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")


def changed(path: Path, mask: Mask) -> set[tuple[int, str]]:
    """The tensors with other bytes than in the original file: old number of the block, and name."""
    before, after = open_gguf(path), open_gguf(path.with_name("out.gguf"))
    kept = [block for block in range(6) if block not in mask.gone]
    found = set()
    for name, tensor in after.tensors.items():
        block = None if tensor.block is None else kept[tensor.block]
        old = before.tensors[name if block is None else tensor.renamed(block)]
        if bytes(old.data) != bytes(tensor.data):
            assert block is not None
            found.add((block, name.split(".", 2)[2]))
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
    zeros = [name for name, tensor in after.tensors.items() if not tensor.data.any()]
    assert zeros == ["blk.0.attn_output.weight", f"blk.1.{down}", "blk.4.attn_output.weight"]
    assert found.idle > 0


@pytest.mark.parametrize(
    ("kind", "type_", "dropped", "after", "names"),
    [
        *(("qwen2", type_, (1, 2, 4), (3, 5), OUTPUTS) for type_ in ("F32", "F16", "BF16")),
        ("gemma3", "Q8_0", (1, 2), (3, 4, 5), NORMS),  # its norms are not quantised
    ],
)
def test_factors_are_folded(
    tmp_path: Path, kind: str, type_: str, dropped: tuple[int, ...], after: Any, names: Any
) -> None:
    path, mask = gguf_models.write(tmp_path / "tiny.gguf", kind, type_), Mask(6, dropped)
    found = export_gguf(wanted(path, mask, scales=SCALES))
    assert "of the masked and compensated model's" in found.proof
    assert changed(path, mask) == {(block, name) for block in after for name in names}


def test_a_factor_that_is_not_folded_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_export, "_times", lambda *_: lambda data: data)
    with pytest.raises(MismatchError, match="its logits differ"):
        export_gguf(wanted(path, (1,), scales=[2.0] * 6))


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
    found = export_gguf(wanted(path, mask, repair=Repair({3: torch.linspace(0.5, 2, 64)})))
    assert "equal bit for bit to those of the masked and repaired model" in found.proof
    assert changed(path, mask) == {(1, "post_ffw_norm.weight")}


@pytest.mark.parametrize(
    "settings", [{"scales": SCALES}, {"repair": Repair({1: 2 * torch.eye(64)})}], ids=["scales", "maps"]
)
def test_quantised_tensors_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", "llama", "Q8_0")
    with pytest.raises(InputError, match=r"is quantised \(Q8_0\)"):
        export_gguf(wanted(path, (1, 4), **settings))
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.gguf"}

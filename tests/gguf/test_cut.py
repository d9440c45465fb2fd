"""A cut file holds the kept tensors byte by byte, under new numbers and with the alignment of the original."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models import gguf as module
from pruning.models.gguf import open_gguf, plan_gguf, size_of, write_gguf
from tests.helpers import gguf_models


@pytest.mark.parametrize("alignment", [32, 128])
@pytest.mark.parametrize("type_", gguf_models.TYPES)
def test_tensors_are_copied_and_renumbered(tmp_path: Path, type_: str, alignment: int) -> None:
    path = gguf_models.write(
        tmp_path / "a.gguf", "qwen2", type_, extra=lambda writer: writer.add_custom_alignment(alignment)
    )
    cut = plan_gguf(open_gguf(path), Mask(6, (0, 4)), {})
    with (tmp_path / "out.gguf").open("wb") as stream:
        write_gguf(cut, stream)
    assert (tmp_path / "out.gguf").stat().st_size == size_of(cut)
    before = {t.name: t for t in GGUFReader(path).tensors}
    after = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}
    numbers = {1: 0, 2: 1, 3: 2, 5: 3}
    expected = {}
    for name, tensor in before.items():
        head, number, tail = (*name.split(".", 2), "", "")[:3] if name.startswith("blk.") else ("", "", "")
        if not number or int(number) in numbers:
            expected[f"{head}.{numbers[int(number)]}.{tail}" if number else name] = tensor
    assert list(after) == list(expected)
    for name, tensor in after.items():
        assert tensor.tensor_type == expected[name].tensor_type, name
        assert tensor.shape.tolist() == expected[name].shape.tolist(), name
        assert tensor.data_offset % alignment == 0, name
        assert tensor.data.tobytes() == expected[name].data.tobytes(), name


def test_large_tensors_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = plan_gguf(open_gguf(gguf_models.write(tmp_path / "a.gguf")), Mask(6, (2,)), {})
    whole, pieces = io.BytesIO(), io.BytesIO()
    write_gguf(cut, whole)
    monkeypatch.setattr(module, "PIECE", 1000)
    write_gguf(cut, pieces)
    assert whole.getvalue() == pieces.getvalue()


def test_a_changed_tensor_keeps_its_size(tmp_path: Path) -> None:
    file = open_gguf(gguf_models.write(tmp_path / "a.gguf"))
    plan = plan_gguf(file, Mask(6, (2,)), {})
    changed = dataclasses.replace(plan, changes={"blk.3.ffn_down.weight": np.zeros_like})
    with (tmp_path / "out.gguf").open("wb") as stream:
        write_gguf(changed, stream)
    after = open_gguf(tmp_path / "out.gguf")
    zero = [name for name, tensor in after.tensors.items() if not tensor.data.any()]
    assert zero == ["blk.2.ffn_down.weight"]
    with pytest.raises(ValueError, match="would change its size"):
        write_gguf(
            dataclasses.replace(plan, changes={"blk.3.ffn_down.weight": lambda data: data[1:]}), io.BytesIO()
        )


def test_a_mask_for_another_model_is_refused(tmp_path: Path) -> None:
    file = open_gguf(gguf_models.write(tmp_path / "a.gguf"))
    with pytest.raises(InputError, match=r"the mask is over 7 blocks and .* has 6"):
        plan_gguf(file, Mask(7, (1,)), {})


def test_a_file_without_some_blocks_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes().replace(b"blk.5.", b"blk.6."))
    with pytest.raises(InputError, match=r"tensors for the blocks \[0, 1, 2, 3, 4, 6\], not for 0 to 5"):
        plan_gguf(open_gguf(path), Mask(6, (1,)), {})

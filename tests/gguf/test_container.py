"""Opening GGUF files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from pruning.core.errors import InputError
from pruning.gguf.container import open_gguf
from tests.helpers import gguf_models


def test_the_bytes_of_every_key_and_tensor_are_found(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", "qwen3", "Q8_0")
    file, whole = open_gguf(path), path.read_bytes()
    keys = b"".join(entry.raw for entry in file.entries.values())
    assert whole[24 : 24 + len(keys)] == keys
    assert file.architecture == "qwen3"
    assert (file.n_blocks, file.order, file.alignment, file.version) == (6, "<", 32, 3)
    assert [tensor.block for tensor in file.tensors][:2] == [None, 0]
    tensor = file.tensor("blk.2.ffn_down.weight")
    assert tensor is not None
    assert (tensor.kind_name, tensor.renamed(1), tensor.parameters) == (
        "Q8_0",
        "blk.1.ffn_down.weight",
        64 * 96,
    )
    assert len(tensor.data) == 64 * 96 // 32 * 34
    assert bytes(tensor.data) in whole


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    for size in (3, 200, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="cannot be read as GGUF"):
            open_gguf(path)


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", extra=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(InputError, match=r"one of 3 parts of a model: join them first"):
        open_gguf(path)


def test_a_file_without_a_language_model_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"holds no language model \(general.architecture is 'clip'"):
        open_gguf(tmp_path / "a.gguf")

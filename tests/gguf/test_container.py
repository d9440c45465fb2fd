"""Opening GGUF files: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.models.gguf import open_gguf
from pruning.models.model_files import find_files
from tests.helpers import gguf_models


def test_the_bytes_of_every_key_and_tensor_are_found(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", "qwen3", "Q8_0")
    file, whole = open_gguf(path), path.read_bytes()
    keys = b"".join(entry.raw for entry in file.entries.values())
    assert whole[24 : 24 + len(keys)] == keys
    assert file.architecture == "qwen3"
    assert (file.n_blocks, file.alignment, file.version) == (6, 32, 3)
    assert [tensor.block for tensor in file.tensors.values()][:2] == [None, 0]
    tensor = file.tensors["blk.2.ffn_down.weight"]
    assert tensor.kind_name == "Q8_0"
    assert tensor.parameters == 64 * 96
    assert len(tensor.data) == 64 * 96 // 32 * 34
    assert bytes(tensor.data) in whole


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    for size in (3, 200, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="cannot be read as GGUF"):
            open_gguf(path)


def test_a_part_of_a_model_and_a_file_without_one_are_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", extra=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(InputError, match="one of 3 parts"):
        open_gguf(path)
    writer = gguf.GGUFWriter(path, "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"general.architecture is 'clip'"):
        open_gguf(path)


def test_each_number_of_a_header_may_be_any_number(tmp_path: Path) -> None:
    """Whatever eight bytes a header holds, the file is read or refused, and at once."""
    path = gguf_models.write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    header = whole.index(b"blk.1.")
    started = time.monotonic()
    for place in range(4, header, 61):
        for planted in (2**31, 2**33, 2**63 + 1):
            path.write_bytes(whole[:place] + struct.pack("<Q", planted) + whole[place + 8 :])
            with contextlib.suppress(InputError):
                open_gguf(path)
    assert time.monotonic() - started < 20


def test_a_link_to_no_file_blocks_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").symlink_to(tmp_path / "gone.gguf")
    with pytest.raises(InputError, match="no weights"):
        find_files(str(tmp_path))
    whole = gguf_models.write(tmp_path / "whole.gguf")
    (tmp_path / "._whole.gguf").write_bytes(b"a shadow that macOS makes")
    assert find_files(str(tmp_path)).gguf == whole.resolve()
    assert find_files(str(tmp_path), "whole.gguf").gguf == whole.resolve()
    with pytest.raises(InputError, match=r"model\.gguf_file=x\.gguf"):
        find_files(str(tmp_path), "x.gguf")


def test_zero_bytes_are_zero_weights_in_every_type() -> None:
    checked = 0
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            values = gguf.dequantize(np.zeros((3, size), np.uint8), kind)
        except NotImplementedError:
            continue
        assert not values.any(), kind
        checked += 1
    assert checked > 20

"""Opening GGUF files: what is read, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.models.gguf import check_header, open_gguf
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
    assert (tensor.kind_name, tensor.renamed(1)) == ("Q8_0", "blk.1.ffn_down.weight")
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


def numbers(*values: tuple[str, int]) -> bytes:
    return b"".join(struct.pack(f"<{form}", value) for form, value in values)


def text(name: str) -> bytes:
    return numbers(("Q", len(name))) + name.encode()


HEAD = b"GGUF" + numbers(("I", 3))
LIST, TEXT, BYTE, UINT32 = 9, 8, 0, 4
KEY, TENSOR = HEAD + numbers(("Q", 0), ("Q", 1)), HEAD + numbers(("Q", 1), ("Q", 0))
NAMED = text("general.architecture") + numbers(("I", TEXT)) + text("llama")
NESTED = numbers(("I", LIST), *[("I", LIST), ("Q", 1)] * 9, ("I", BYTE), ("Q", 0))
SQUARE = numbers(("I", 2), ("Q", 2**40), ("Q", 2**40), ("I", 0), ("Q", 0))
TWICE = text("a") + numbers(("I", BYTE), ("B", 1))
PLANTED = {
    "tensors": HEAD + numbers(("Q", 2**40), ("Q", 0)),
    "keys": HEAD + numbers(("Q", 0), ("Q", 2**40)),
    "a key's name": KEY + numbers(("Q", 2**62)),
    "list": KEY + text("list") + numbers(("I", LIST), ("I", BYTE), ("Q", 2**33)),
    "texts": KEY + text("texts") + numbers(("I", LIST), ("I", TEXT), ("Q", 2**33)),
    "long": KEY + text("long") + numbers(("I", TEXT), ("Q", 2**63)),
    "lists": KEY + text("lists") + NESTED,
    "a.weight": TENSOR + text("a.weight") + numbers(("I", 2**30), *[("Q", 1)] * 4),
    "b.weight": TENSOR + text("b.weight") + SQUARE,
    "block_count": HEAD
    + numbers(("Q", 0), ("Q", 2))
    + NAMED
    + text("llama.block_count")
    + numbers(("I", UINT32), ("I", 2**31)),
    "a key or a tensor twice": HEAD + numbers(("Q", 0), ("Q", 2)) + TWICE * 2,
    "general.alignment": KEY + text("general.alignment") + numbers(("I", UINT32), ("I", 24)),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_number_that_asks_for_more_than_the_file_holds_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(PLANTED[what] + bytes(64))
    for read in (
        lambda: open_gguf(path),
        lambda: find_files(str(path.parent)).gguf,
        lambda: find_files(str(tmp_path)).digest,
    ):
        with pytest.raises(InputError, match=re.escape(str(path))) as error:
            read()
        assert what in str(error.value)


def test_a_file_with_holes_asks_for_no_endless_walk(tmp_path: Path) -> None:
    """A file of 2^40 zeros needs no space, so its size alone does not bound what a header announces."""
    for planted in PLANTED.values():
        (tmp_path / "a.gguf").write_bytes(planted)
        os.truncate(tmp_path / "a.gguf", 2**40)
        with pytest.raises(InputError):
            open_gguf(tmp_path / "a.gguf")


def test_each_number_of_a_header_may_be_any_number(tmp_path: Path) -> None:
    """Whatever eight bytes a header holds, it is read or refused within a second."""
    path = gguf_models.write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    header = whole.index(b"blk.1.")
    started = time.monotonic()
    for place in range(4, header, 61):
        for planted in (2**31, 2**33, 2**63 + 1):
            path.write_bytes(whole[:place] + struct.pack("<Q", planted) + whole[place + 8 :])
            with contextlib.suppress(InputError):
                check_header(path)
    assert time.monotonic() - started < 20


def test_block_counts_of_a_configuration_are_compared_with_the_weights(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for settings in ({"num_hidden_layers": 2**31}, {"text_config": {"num_hidden_layers": 2**31}}):
        (folder / "config.json").write_text(json.dumps(config | settings))
        with pytest.raises(InputError, match=r"num_hidden_layers=2,147,483,648"):
            _ = find_files(str(folder)).digest


def test_a_link_to_no_file_blocks_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").symlink_to(tmp_path / "gone.gguf")
    with pytest.raises(InputError, match=r"x\.gguf"):
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

"""GGUF files: what is read, what is refused, and that a cut file holds the kept tensors byte by byte."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.gguf import (
    PLAIN,
    WINDOWS,
    GgufFile,
    open_gguf,
    pattern,
    plan_gguf,
    size_of,
    window_lists,
    write_gguf,
)
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
        with pytest.raises(InputError, match=r"a\.gguf .*GGUF"):
            open_gguf(path)


def test_a_part_of_a_model_and_a_file_without_one_are_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", extra=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(InputError, match=r" 3 .*llama-gguf-split --merge"):
        open_gguf(path)
    writer = gguf.GGUFWriter(path, "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"general\.architecture .*'clip'"):
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
    with pytest.raises(InputError, match=r"^model\.path=.*weights .*\.gguf"):
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


PATTERN = "attention.sliding_window_pattern"


def cut(path: Path, mask: Mask | None = None, record: Any = None) -> GgufFile:
    plan = plan_gguf(open_gguf(path), mask or Mask(6, (1, 4)), record or {})
    out = path.with_name("out.gguf")
    with out.open("wb") as stream:
        write_gguf(plan, stream)
    assert out.stat().st_size == size_of(plan)
    return open_gguf(out)


# Tensors.


@pytest.mark.parametrize("alignment", [32, 128])
@pytest.mark.parametrize("type_", gguf_models.TYPES)
def test_tensors_are_copied_and_renumbered(tmp_path: Path, type_: str, alignment: int) -> None:
    path = gguf_models.write(
        tmp_path / "a.gguf", "qwen2", type_, extra=lambda writer: writer.add_custom_alignment(alignment)
    )
    after = gguf.GGUFReader(cut(path, Mask(6, (0, 4))).path).tensors
    numbers = {1: 0, 2: 1, 3: 2, 5: 3}
    expected = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if not tensor.name.startswith("blk."):
            expected[tensor.name] = tensor
        elif (number := int(tensor.name.split(".")[1])) in numbers:
            expected[f"blk.{numbers[number]}.{tensor.name.split('.', 2)[2]}"] = tensor
    assert [tensor.name for tensor in after] == list(expected)
    for tensor in after:
        before = expected[tensor.name]
        assert tensor.tensor_type == before.tensor_type, tensor.name
        assert tensor.shape.tolist() == before.shape.tolist(), tensor.name
        assert tensor.data_offset % alignment == 0, tensor.name
        assert tensor.data.tobytes() == before.data.tobytes(), tensor.name


def test_a_file_with_other_blocks_than_the_mask_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    with pytest.raises(InputError, match=r"7 blocks.* 6"):
        cut(path, Mask(7, (1,)))
    path.write_bytes(path.read_bytes().replace(b"blk.5.", b"blk.6."))
    with pytest.raises(InputError, match=r"blocks \[0, 1, 2, 3, 4, 6\]"):
        cut(path)


# Keys.


def per_block(writer: Any) -> None:
    """A list per block of each kind that llama.cpp reads, and lists of the same length that are something else."""
    for key in ("head_count", "head_count_kv"):  # the numbers of the tests' models become lists
        writer.kv_data[0].pop(f"llama.attention.{key}")
    writer.kv_data[0].pop("llama.feed_forward_length")
    writer.add_array("llama.attention.head_count", [4, 8, 4, 4, 8, 2])
    writer.add_array("llama.attention.head_count_kv", [2, 4, 2, 0, 4, 1])
    writer.add_array("llama.feed_forward_length", [96, 1, 97, 98, 2, 99])
    writer.add_array("llama.expert_used_count", [1, 2, 3, 4, 5, 6])
    writer.add_array("llama.attention.sliding_window_pattern", [True, False, True, False, True, False])
    writer.add_key_value(
        "llama.wide", [2**40 + i for i in range(6)], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT64
    )
    for kind in ("alpha_p", "alpha_n", "beta", "eps"):  # Apertus: the keys do not name the architecture
        getattr(writer, f"add_xielu_{kind}")([0.5 + block for block in range(6)])
    writer.add_array("llama.rope.dimension_sections", [1, 2, 3, 4, 5, 6])
    writer.add_array("llama.other", [7, 8])
    writer.add_array("tokenizer.ggml.six", [1, 2, 3, 4, 5, 6])
    writer.add_uint32("llama.leading_dense_block_count", 2)
    writer.add_string("general.size_label", "8B")


CUT = {
    "llama.block_count": 4,
    "llama.attention.head_count": [4, 4, 4, 2],
    "llama.attention.head_count_kv": [2, 2, 0, 1],
    "llama.feed_forward_length": [96, 97, 98, 99],
    "llama.expert_used_count": [1, 3, 4, 6],
    "llama.attention.sliding_window_pattern": [True, True, False, False],
    "llama.wide": [2**40 + i for i in (0, 2, 3, 5)],
    "llama.leading_dense_block_count": 1,  # of blocks 0 and 1, block 0 is left
    "general.size_label": None,  # it describes the original model
}


def test_lists_per_block_are_cut_and_everything_else_keeps_its_bytes(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf", extra=per_block)
    before, after = open_gguf(path), cut(path)
    activations = [name for name in before.entries if "xielu" in name]
    assert len(activations) == 4
    expected = CUT | {name: [0.5, 2.5, 3.5, 5.5] for name in activations}
    assert {name: after.value(name) for name in expected} == expected
    changed = {name for name, entry in before.entries.items() if after.entries.get(name) != entry}
    assert changed == set(expected)
    assert set(after.entries) - set(before.entries) == {"depth_pruning.record"}
    order = [name for name in before.entries if name in after.entries]
    assert [name for name in after.entries if name in before.entries] == order


def test_the_record_can_be_read_and_is_replaced(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    assert open_gguf(path).record() is None
    once = cut(path, record={"mask": {"dropped": [1, 4]}})
    assert once.record() == {"mask": {"dropped": [1, 4]}}
    again = once.path.rename(tmp_path / "again.gguf")
    assert cut(again, Mask(4, (3,)), {"mask": 2}).record() == {"mask": 2}


# What llama.cpp derives from the numbers of blocks: lists are written where it reads them, the rest is refused.


def test_the_rule_of_llama_cpp() -> None:
    assert not PLAIN & set(WINDOWS), "an architecture is in two tables"
    assert pattern(6, 2) == [True, False] * 3
    assert pattern(7, 6) == [True] * 5 + [False, True]
    assert pattern(2, 0) == [True, True]
    assert pattern(2, 1) == [False, False]


FLAGS = [False, True, True, True, False, True]
PERIOD = [True, False, True, True, False]  # of [True, True, False] * 2, without the first


@pytest.mark.parametrize(
    ("kind", "stored", "dropped", "listed"),
    [
        ("gemma2", None, (1, 4), {PATTERN: [True, True, False, False]}),
        ("gemma2", None, (2, 3), {}),  # the rule gives the same kinds
        ("gemma3", 3, (0,), {PATTERN: PERIOD}),  # a period in the file replaces the rule
        ("gemma3", FLAGS, (0,), {}),  # a list in the file is cut as any other
        ("gemma3 without windows", None, (0,), {}),
        ("llama", None, (0,), {}),
    ],
)
def test_kinds_that_no_longer_follow_the_rule_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stored: Any, dropped: tuple[int, ...], listed: Any
) -> None:  # fmt: skip
    name, _, without = kind.partition(" ")
    if without:
        monkeypatch.setitem(gguf_models.KINDS, name, (*gguf_models.KINDS[name][:3], None))

    def extra(writer: Any) -> None:
        if stored is not None:
            writer.add_sliding_window_pattern(stored)

    file = open_gguf(gguf_models.write(tmp_path / "a.gguf", name, n_blocks=6, extra=extra))
    assert window_lists(file, Mask(6, dropped)) == listed


@pytest.mark.parametrize(
    ("kind", "n_blocks", "key", "value", "message"),
    [
        ("smollm3", 6, "", 0, "architecture smollm3"),
        ("mamba2", 6, "", 0, "architecture mamba2"),
        ("gemma2", 46, "", 0, "46 blocks .* 45, "),
        ("qwen3", 6, "qwen3.attention.shared_kv_layers", 2, "shared_kv_layers=2"),
        ("qwen3", 6, "qwen3.nextn_predict_layers", 2, "nextn_predict_layers=2"),
        ("llama", 6, "general.tensor_extra.name", ["blk.0.x"], r"general\.tensor_extra\.name"),
        ("llama", 6, "llama.kinds", ["a"] * 6, r"llama\.kinds"),
    ],
)
def test_what_is_not_certain_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, n_blocks: int, key: str, value: Any, message: str
) -> None:  # fmt: skip
    monkeypatch.setitem(gguf_models.KINDS, kind, gguf_models.KINDS.get(kind, gguf_models.KINDS["llama"]))

    def extra(writer: Any) -> None:
        if key:
            (writer.add_array if isinstance(value, list) else writer.add_uint32)(key, value)

    path = gguf_models.write(tmp_path / "a.gguf", kind, n_blocks=n_blocks, extra=extra)
    with pytest.raises(InputError, match=message):
        size_of(plan_gguf(open_gguf(path), Mask(n_blocks, (1,)), {}))

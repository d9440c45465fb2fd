"""The keys of a cut file: lists with one entry per block are cut, everything else keeps its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.gguf import GgufFile, open_gguf, plan_gguf, write_gguf
from tests.helpers import gguf_models

MASK = Mask(6, (1, 4))


def cut(path: Path, mask: Mask = MASK, record: Any = None) -> GgufFile:
    out = path.with_name("out.gguf")
    with out.open("wb") as stream:
        write_gguf(plan_gguf(open_gguf(path), mask, record or {}), stream)
    return open_gguf(out)


def per_block(writer: Any) -> None:
    """A list per block of each kind that llama.cpp reads, and lists of the same length that are something else."""
    writer.add_array("llama.attention.head_count", [4, 8, 4, 4, 8, 2])
    writer.add_array("llama.attention.head_count_kv", [2, 4, 2, 0, 4, 1])
    writer.add_array("llama.feed_forward_length", [96, 1, 97, 98, 2, 99])
    writer.add_array("llama.expert_used_count", [1, 2, 3, 4, 5, 6])
    writer.add_array("llama.attention.sliding_window_pattern", [True, False, True, False, True, False])
    writer.add_array("xielu.alpha_n", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    writer.add_key_value(
        "llama.wide", [2**40 + i for i in range(6)], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT64
    )
    writer.add_array("llama.rope.dimension_sections", [1, 2, 3, 4, 5, 6])
    writer.add_array("llama.other", [7, 8])
    writer.add_array("tokenizer.ggml.six", [1, 2, 3, 4, 5, 6])
    writer.add_uint32("llama.leading_dense_block_count", 2)
    writer.add_string("general.size_label", "8B")


def plain_settings(writer: Any, n_blocks: int, head: int) -> None:
    """The settings of the tests' models, without the keys that `per_block` writes as lists."""
    original(writer, n_blocks, head)
    for key in ("head_count", "head_count_kv"):
        writer.kv_data[0].pop(f"llama.attention.{key}")
    writer.kv_data[0].pop("llama.feed_forward_length")


original = gguf_models._settings


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gguf_models, "_settings", plain_settings)
    return gguf_models.write(tmp_path / "a.gguf", extra=per_block)


def test_lists_per_block_are_cut(lists: Path) -> None:
    after = cut(lists)
    assert after.own("block_count") == 4
    assert after.own("attention.head_count") == [4, 4, 4, 2]
    assert after.own("attention.head_count_kv") == [2, 2, 0, 1]
    assert after.own("feed_forward_length") == [96, 97, 98, 99]
    assert after.own("expert_used_count") == [1, 3, 4, 6]
    assert after.own("attention.sliding_window_pattern") == [True, True, False, False]
    assert after.value("xielu.alpha_n") == [0.5, 2.5, 3.5, 5.5]
    assert after.own("wide") == [2**40 + i for i in (0, 2, 3, 5)]
    assert after.own("leading_dense_block_count") == 1, "of blocks 0 and 1, block 0 is left"
    assert after.value("general.size_label") is None, "it describes the original model"


def test_the_lists_of_apertus_are_cut_although_their_keys_do_not_name_it(tmp_path: Path) -> None:
    def activations(writer: Any) -> None:
        for add in (
            writer.add_xielu_alpha_p,
            writer.add_xielu_alpha_n,
            writer.add_xielu_beta,
            writer.add_xielu_eps,
        ):
            add([0.5 + block for block in range(6)])

    after = cut(gguf_models.write(tmp_path / "a.gguf", extra=activations))
    lists = {name: after.value(name) for name in after.entries if "xielu" in name}
    assert len(lists) == 4
    assert all(values == [0.5, 2.5, 3.5, 5.5] for values in lists.values()), "llama.cpp checks their length"


def test_everything_else_keeps_its_bytes(lists: Path) -> None:
    before, after = open_gguf(lists), cut(lists)
    changed = {name for name, entry in before.entries.items() if after.entries.get(name) != entry}
    heads = ("attention.head_count", "attention.head_count_kv", "attention.sliding_window_pattern")
    own = ("block_count", "feed_forward_length", "expert_used_count", "wide")
    expected = {f"llama.{name}" for name in (*heads, *own, "leading_dense_block_count")}
    assert changed == expected | {"xielu.alpha_n", "general.size_label"}
    assert set(after.entries) - set(before.entries) == {"depth_pruning.record"}
    assert [name for name in after.entries if name in before.entries] == [
        n for n in before.entries if n in after.entries
    ]


def test_the_record_can_be_read_and_is_replaced(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "a.gguf")
    assert open_gguf(path).record() is None
    once = cut(path, record={"mask": {"dropped": [1, 4]}})
    assert once.record() == {"mask": {"dropped": [1, 4]}}
    (tmp_path / "again").mkdir()
    once.path.replace(tmp_path / "again" / "a.gguf")
    twice = cut(tmp_path / "again" / "a.gguf", Mask(4, (3,)), {"mask": 2})
    assert twice.record() == {"mask": 2}


def test_a_list_of_texts_per_block_is_refused(tmp_path: Path) -> None:
    path = gguf_models.write(
        tmp_path / "a.gguf", extra=lambda writer: writer.add_array("llama.kinds", ["a"] * 6)
    )
    with pytest.raises(
        InputError, match=r"llama\.kinds is a list of texts or lists with one entry per block"
    ):
        cut(path)


def test_a_file_of_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    gguf_models._settings(writer, 6, 16)
    for block in range(6):
        writer.add_tensor(f"blk.{block}.attn_norm.weight", gguf_models.np.full(4, block, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    after = cut(path)
    assert (after.order, after.n_blocks) == (">", 4)
    assert [float(t.data.view(">f4")[0]) for t in after.tensors.values()] == [0, 2, 3, 5]

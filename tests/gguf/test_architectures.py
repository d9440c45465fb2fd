"""What llama.cpp derives from the numbers of blocks: lists are written where it reads them, the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.gguf import (
    PLAIN,
    REFUSED,
    SIZES,
    WINDOWS,
    GgufFile,
    check_architecture,
    open_gguf,
    pattern,
    window_lists,
    windows,
)
from tests.helpers import gguf_models

PATTERN = "attention.sliding_window_pattern"


def opened(folder: Path, kind: str, n_blocks: int = 6, **settings: Any) -> GgufFile:
    return open_gguf(gguf_models.write(folder / "a.gguf", kind, n_blocks=n_blocks, **settings))


def test_an_architecture_is_in_one_table() -> None:
    assert not PLAIN & (set(WINDOWS) | set(REFUSED) | set(SIZES))
    assert not set(REFUSED) & (set(WINDOWS) | set(SIZES))


def test_the_rule_of_llama_cpp() -> None:
    assert pattern(6, 2) == [True, False] * 3
    assert pattern(7, 6) == [True] * 5 + [False, True]
    assert pattern(2, 0) == [True, True]
    assert pattern(2, 1) == [False, False]


def test_kinds_that_no_longer_follow_the_rule_are_listed(tmp_path: Path) -> None:
    file = opened(tmp_path, "gemma2")
    assert windows(file) == [True, False] * 3
    assert window_lists(file, Mask(6, (1, 4))) == {PATTERN: [True, True, False, False]}
    assert window_lists(file, Mask(6, (2, 3))) == {}, "the rule gives the same kinds"


def test_a_period_or_a_list_in_the_file_replaces_the_rule(tmp_path: Path) -> None:
    period = opened(tmp_path / "period", "gemma3", extra=lambda writer: writer.add_sliding_window_pattern(3))
    assert windows(period) == [True, True, False] * 2
    assert window_lists(period, Mask(6, (0,)))[PATTERN] == [True, False, True, True, False]
    flags = [False, True, True, True, False, True]
    listed = opened(
        tmp_path / "list", "gemma3", extra=lambda writer: writer.add_sliding_window_pattern(flags)
    )
    assert windows(listed) == flags
    assert window_lists(listed, Mask(6, (0,))) == {}, "a list is cut as any other"


def test_a_model_without_windows_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, norms, biases, _ = gguf_models.KINDS["gemma3"]
    monkeypatch.setitem(gguf_models.KINDS, "gemma3", (weights, norms, biases, None))
    assert windows(opened(tmp_path, "gemma3")) is None
    assert windows(opened(tmp_path, "llama")) is None


CASES = {
    "in the list of refusals": (
        "smollm3",
        6,
        None,
        "every fourth block, counted by its number, has no rotary",
    ),
    "unknown": ("mamba2", 6, None, "architecture mamba2, and it was not checked what llama.cpp derives"),
    "a size": (
        "gemma2",
        46,
        None,
        "46 blocks cannot become 45, because llama.cpp computes a gemma2 model with another",
    ),
    "shared keys": (
        "qwen3",
        6,
        "qwen3.attention.shared_kv_layers",
        "shared_kv_layers is 2: such blocks cannot be cut",
    ),
    "further blocks": (
        "qwen3",
        6,
        "qwen3.nextn_predict_layers",
        "nextn_predict_layers is 2: such blocks cannot be cut",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_certain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    kind, n_blocks, key, message = CASES[case]
    monkeypatch.setitem(gguf_models.KINDS, kind, gguf_models.KINDS.get(kind, gguf_models.KINDS["llama"]))
    file = opened(tmp_path, kind, n_blocks, extra=lambda writer: writer.add_uint32(key, 2) if key else None)
    with pytest.raises(InputError, match=message):
        check_architecture(file, Mask(n_blocks, (1,)))


def test_tensors_named_by_number_in_a_key_are_refused(tmp_path: Path) -> None:
    names = ["blk.0.attn_q.weight"]
    file = opened(
        tmp_path, "llama", extra=lambda writer: writer.add_array("general.tensor_extra.name", names)
    )
    with pytest.raises(InputError, match=r"general\.tensor_extra\.name names tensors by the numbers"):
        check_architecture(file, Mask(6, (1,)))

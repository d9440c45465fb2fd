"""What llama.cpp derives from the numbers of blocks: lists are written where it reads them, the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.gguf import PLAIN, WINDOWS, GgufFile, open_gguf, pattern, plan_gguf, window_lists
from tests.helpers import gguf_models

PATTERN = "attention.sliding_window_pattern"


def opened(folder: Path, kind: str, n_blocks: int = 6, **settings: Any) -> GgufFile:
    return open_gguf(gguf_models.write(folder / "a.gguf", kind, n_blocks=n_blocks, **settings))


def test_an_architecture_is_in_one_table() -> None:
    assert not PLAIN & set(WINDOWS)


def test_the_rule_of_llama_cpp() -> None:
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
        ("llama", None, (0,), {}),
    ],
)
def test_kinds_that_no_longer_follow_the_rule_are_listed(
    tmp_path: Path, kind: str, stored: Any, dropped: tuple[int, ...], listed: dict[str, list[bool]]
) -> None:
    def extra(writer: Any) -> None:
        if stored is not None:
            writer.add_sliding_window_pattern(stored)

    assert window_lists(opened(tmp_path, kind, extra=extra), Mask(6, dropped)) == listed


def test_a_model_without_windows_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, norms, biases, _ = gguf_models.KINDS["gemma3"]
    monkeypatch.setitem(gguf_models.KINDS, "gemma3", (weights, norms, biases, None))
    assert window_lists(opened(tmp_path, "gemma3"), Mask(6, (0,))) == {}


# By case: architecture, number of blocks, a key with its value, and what the message names.
CASES: dict[str, tuple[str, int, tuple[str, Any], str]] = {
    "derived": ("smollm3", 6, ("", 0), "architecture smollm3"),
    "unknown": ("mamba2", 6, ("", 0), "architecture mamba2"),
    "a size": ("gemma2", 46, ("", 0), "46 blocks cannot become 45"),
    "shared keys": ("qwen3", 6, ("qwen3.attention.shared_kv_layers", 2), "shared_kv_layers=2"),
    "further blocks": ("qwen3", 6, ("qwen3.nextn_predict_layers", 2), "nextn_predict_layers=2"),
    "named by number": (
        "llama",
        6,
        ("general.tensor_extra.name", ["blk.0.x"]),
        r"general\.tensor_extra\.name",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_certain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    kind, n_blocks, (key, value), message = CASES[case]
    monkeypatch.setitem(gguf_models.KINDS, kind, gguf_models.KINDS.get(kind, gguf_models.KINDS["llama"]))

    def extra(writer: Any) -> None:
        if key:
            writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)

    file = opened(tmp_path, kind, n_blocks, extra=extra)
    with pytest.raises(InputError, match=message):
        plan_gguf(file, Mask(n_blocks, (1,)), {})

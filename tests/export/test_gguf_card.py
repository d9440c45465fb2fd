"""The card of a cut GGUF file: how to run it, and a warning if only some programs compute it rightly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pruning.core.mask import Mask
from pruning.export.gguf_export import card_of, export_gguf
from pruning.export.request import Request
from pruning.models.model import Model
from tests.helpers import gguf_models


def card(folder: Path, kind: str, mask: Mask) -> str:
    path = gguf_models.write(
        folder / "tiny.gguf", kind, "Q8_0", extra=lambda writer: writer.add_license("apache-2.0")
    )
    export_gguf(Request(Model("tiny", "local", str(path)), mask, folder / "cut.gguf", verify=False))
    return card_of(folder / "cut.gguf").read_text()


def test_the_card_says_what_was_cut_and_how_it_is_run(tmp_path: Path) -> None:
    text = card(tmp_path, "llama", Mask(6, (1, 4)))
    digest = hashlib.sha256((tmp_path / "cut.gguf").read_bytes()).hexdigest()
    for part in (
        "license: apache-2.0",
        "library_name: gguf",
        "Blocks removed, counted from 0: 1, 4.",
        "weights in Q8_0, F32",
        "FROM ./cut.gguf",
        "ollama create cut -f Modelfile\nollama run cut",
        'from_pretrained(".", gguf_file="cut.gguf")',
        "copied byte by byte",
        "out=FILE.gguf",
        "Not compared with the masked model (verify=false)",
        digest,
    ):
        assert part in text, part
    assert "The file lists them" not in text


@pytest.mark.parametrize(("dropped", "warned"), [((1, 4), True), ((2, 3), False)])
def test_moved_kinds_are_said_also_without_a_comparison(
    tmp_path: Path, dropped: tuple[int, ...], warned: bool
) -> None:
    text = card(tmp_path, "gemma2", Mask(6, dropped))
    assert ("The file lists them (`gemma2.attention.sliding_window_pattern`)" in text) == warned
    assert ("from_pretrained" in text) != warned, "transformers alone would compute something else"

"""What a GGUF export may replace."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.export.gguf_export import card_of, check_gguf_target, export_gguf
from pruning.export.request import Request, is_gguf
from tests.helpers import gguf_models
from tests.helpers.exports import wanted


@pytest.fixture
def given(tmp_path: Path) -> Request:
    """A request for `out.gguf`."""
    return wanted(gguf_models.write(tmp_path / "tiny.gguf"), (1,), verify=False)


def test_the_ending_decides() -> None:
    assert [is_gguf(Path(name)) for name in ("a.gguf", "a.GGUF", "gguf")] == [True, True, False]
    assert card_of(Path("x/a.gguf")) == Path("x/a.gguf.md")


def test_only_a_cut_of_the_same_file_and_mask_is_replaced(given: Request) -> None:
    export_gguf(given)
    first = given.out.read_bytes()
    export_gguf(given)
    assert given.out.read_bytes() == first
    other = dataclasses.replace(given, mask=given.mask.dense.drop(2))
    with pytest.raises(InputError, match="another mask"):
        export_gguf(other)
    assert given.out.read_bytes() == first
    export_gguf(dataclasses.replace(other, force=True))
    assert given.out.read_bytes() != first
    export_gguf(dataclasses.replace(given, force=True))
    card_of(given.out).write_text("older")
    export_gguf(given)
    assert card_of(given.out).read_text() != "older", "the card belongs to the file"


def test_foreign_files_stay(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    (tmp_path / "text.gguf").write_text("mine")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "new.gguf.md").write_text("mine")
    before = path.read_bytes()
    for name, reason in {
        "tiny.gguf": "is no GGUF file that this command wrote",
        "text.gguf": "is no GGUF file that this command wrote",
        "folder.gguf": "is a directory",
        "new.gguf": "new.gguf.md, where the card goes",
    }.items():
        with pytest.raises(InputError, match=reason):
            check_gguf_target(tmp_path / name, {"mask": 1})
    assert path.read_bytes() == before

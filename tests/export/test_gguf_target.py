"""What a GGUF export may replace."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export.gguf_export import card_of, check_gguf_target, export_gguf, is_gguf
from pruning.export.request import Request
from pruning.models.model import Model
from tests.helpers import gguf_models


def test_the_ending_decides() -> None:
    assert is_gguf(Path("a.gguf"))
    assert is_gguf(Path("a.GGUF"))
    assert not is_gguf(Path("gguf"))
    assert card_of(Path("x/a.gguf")) == Path("x/a.gguf.md")


def test_only_a_cut_of_the_same_file_and_mask_is_replaced(tmp_path: Path) -> None:
    path, out = gguf_models.write(tmp_path / "tiny.gguf"), tmp_path / "out.gguf"
    model = Model("tiny", "local", str(path))
    given = Request(model, Mask(6, (1,)), out, verify=False)
    export_gguf(given)
    first = out.read_bytes()
    export_gguf(given)
    assert out.read_bytes() == first
    for other in (True, False):
        with pytest.raises(InputError, match=r"holds another cut \(of another mask\)"):
            export_gguf(Request(model, Mask(6, (2,)), out, verify=False, force=other))
    scaled = Request(model, Mask(6, (1,)), out, verify=False, scales=[2.0] * 6)
    with pytest.raises(
        InputError, match="with another compensation: choose another file, or replace it with force"
    ):
        export_gguf(scaled)
    assert out.read_bytes() == first
    export_gguf(Request(model, Mask(6, (1,)), out, verify=False, scales=[2.0] * 6, force=True))
    assert out.read_bytes() != first


def test_a_cut_or_a_card_that_has_changed_is_replaced_with_force_only(tmp_path: Path) -> None:
    path, out = gguf_models.write(tmp_path / "tiny.gguf"), tmp_path / "out.gguf"
    given = Request(Model("tiny", "local", str(path)), Mask(6, (1,)), out, verify=False)
    export_gguf(given)
    first, card = out.read_bytes(), card_of(out).read_text()
    changes = {
        "bytes": (out, first[:-1] + bytes([first[-1] ^ 1])),
        "card": (card_of(out), card.replace("#", "# My", 1).encode()),
        "seal": (card_of(out), card.rpartition("<!--")[0].encode()),
        "no card": (card_of(out), None),
    }
    for changed, data in changes.values():
        changed.unlink() if data is None else changed.write_bytes(data)
        with pytest.raises(InputError, match=rf"{changed.name} .*force"):
            export_gguf(given)
        assert changed.exists() == (data is not None)
        assert data is None or changed.read_bytes() == data
        export_gguf(dataclasses.replace(given, force=True))
        assert out.read_bytes() == first
        assert card_of(out).read_text() == card
    export_gguf(given)


def test_an_export_that_was_killed_between_the_card_and_the_file_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = gguf_models.write(tmp_path / "tiny.gguf"), tmp_path / "out.gguf"
    given = Request(Model("tiny", "local", str(path)), Mask(6, (1,)), out, verify=False)
    scaled = dataclasses.replace(given, scales=[2.0] * 6, force=True)
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        if Path(target) == out:
            raise KeyboardInterrupt
        return replace(source, target)

    for request in (given, scaled):  # the first file, and one in the place of another
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export_gguf(request)
        monkeypatch.setattr(Path, "replace", replace)
        assert card_of(out).exists()
        export_gguf(dataclasses.replace(request, force=request is scaled))
        assert out.exists()
    export_gguf(dataclasses.replace(scaled, force=False))


def test_foreign_files_stay(tmp_path: Path) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf")
    (tmp_path / "text.gguf").write_text("mine")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "new.gguf.md").write_text("mine")
    for name, message in {
        "tiny.gguf": "is no GGUF file that this command wrote",
        "text.gguf": "is no GGUF file that this command wrote",
        "folder.gguf": "is a directory: give a file",
        "new.gguf": "where the card goes, exists",
    }.items():
        with pytest.raises(InputError, match=message):
            check_gguf_target(tmp_path / name, {"mask": 1}, force=True)
    assert path.read_bytes()[:4] == b"GGUF"

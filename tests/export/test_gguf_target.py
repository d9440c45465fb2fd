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
    for force in (True, False):
        other = dataclasses.replace(given, mask=given.mask.dense.drop(2), force=force)
        with pytest.raises(InputError, match="another mask"):
            export_gguf(other)
    scaled = dataclasses.replace(given, scales=[2.0] * 6)
    with pytest.raises(InputError, match=r"another compensation.*force=true"):
        export_gguf(scaled)
    assert given.out.read_bytes() == first
    export_gguf(dataclasses.replace(scaled, force=True))
    assert given.out.read_bytes() != first


def test_a_cut_or_a_card_that_has_changed_is_replaced_with_force_only(given: Request) -> None:
    out = given.out
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
    given: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = dataclasses.replace(given, scales=[2.0] * 6, force=True)
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        if Path(target) == given.out:
            raise KeyboardInterrupt
        return replace(source, target)

    for request in (given, scaled):  # the first file, and one in the place of another
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export_gguf(request)
        monkeypatch.setattr(Path, "replace", replace)
        assert card_of(given.out).exists()
        export_gguf(dataclasses.replace(request, force=request is scaled))
        assert given.out.exists()
    export_gguf(dataclasses.replace(scaled, force=False))


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
            check_gguf_target(tmp_path / name, {"mask": 1}, force=True)
    assert path.read_bytes() == before

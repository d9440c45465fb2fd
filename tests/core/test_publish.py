"""A directory is there whole or not at all, and what was there before survives a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core.storage import publish, replace, staged


def test_a_published_directory_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with staged(target) as partial:
        (partial / "weights").write_text("new")
        assert not target.exists()
        publish(partial, target)
    assert (target / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "model") as partial:
        (partial / "weights").write_text(f"half {1 / 0}")
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_publishers_wins(tmp_path: Path) -> None:
    target = tmp_path / "code"
    for text in ("first", "second"):
        with staged(target) as partial:
            (partial / "file").write_text(text)
            publish(partial, target)
    assert (target / "file").read_text() == "first"


def test_a_replacement_that_fails_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with staged(target) as partial:
        (partial / "weights").write_text("new")
        honest, calls = Path.rename, []

        def second_fails(path: Path, to: Path) -> Path:
            calls.append(path)
            if len(calls) == 2:
                raise OSError("disk")
            return honest(path, to)

        monkeypatch.setattr(Path, "rename", second_fails)
        with pytest.raises(OSError, match="disk"):
            replace(partial, target, lambda _: True)
    assert (target / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]

"""A new store is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pruning.tracking.store import create_store


def test_a_store_whose_tables_are_not_all_made_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def connect(uri: str, *, create: bool) -> SimpleNamespace:
        Path(uri.removeprefix("sqlite:///")).write_text("half of the tables")
        return SimpleNamespace(search_experiments=interrupt)

    monkeypatch.setattr("pruning.tracking.store.connect", connect)
    with pytest.raises(KeyboardInterrupt):
        create_store(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("a store")
    create_store(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "a store"

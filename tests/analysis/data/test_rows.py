"""The row of a cell names its calibration data, also if they have several parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.data.load import load
from tests.helpers.analysis_grid import ONE, write

PYDOC = {"class": "Text", "source": "pydoc", "path": None, "samples": 16, "length": 128, "seed": 0}

ITEMS = {"class": "Items", "source": "commonsense", "samples": 4}


def hub(path: str) -> dict[str, Any]:
    return PYDOC | {"source": "hub", "path": path}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"first": PYDOC, "second": hub("allenai/c4")}, "pydoc + c4"),
        ({"first": hub("a/books"), "second": PYDOC}, "books + pydoc"),
        ({"text": PYDOC, "items": ITEMS}, "pydoc + commonsense"),
        ({"text": {"first": PYDOC, "second": hub("allenai/c4")}, "items": ITEMS}, "pydoc + c4 + commonsense"),
        (PYDOC, "pydoc"),
    ],
)
def test_data_of_several_parts_are_named_by_their_parts(
    parts: dict[str, Any], name: str, tmp_path: Path
) -> None:
    (key,) = write(tmp_path, ONE)
    path = tmp_path / key / "result.json"
    result = json.loads(path.read_text())
    result["config"]["calibration"] = {"option": "mixed", "samples": 32, "length": 128, "seed": 0} | parts
    path.write_text(json.dumps(result))
    assert load(tmp_path)["calibration"].item() == name


def test_parts_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    (key,) = write(tmp_path, ONE)
    result = json.loads((tmp_path / key / "result.json").read_text())
    mixed = [{"option": "mixed", "first": PYDOC, "second": hub(path)} for path in ("a/books", "b/books")]
    for number, drawn in enumerate([*mixed, hub("a/books"), hub("b/books")]):
        result["config"]["calibration"] = drawn | {"samples": 4, "length": 128, "seed": 0}
        cell = f"{key[:-8]}{number:08x}"
        (tmp_path / cell).mkdir()
        (tmp_path / cell / "result.json").write_text(json.dumps(result | {"cell": cell}))
    (tmp_path / key / "result.json").unlink()
    assert list(load(tmp_path)["calibration"]) == ["pydoc + a/books", "pydoc + b/books", "a/books", "b/books"]


def test_models_of_one_name_with_other_weights_are_not_pooled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = write(tmp_path, replace(ONE, seeds=(0, 1), cells=[]))
    for key, revision in zip(keys, ("aaaaaaaa", "bbbbbbbb"), strict=False):
        path = tmp_path / key / "result.json"
        result = json.loads(path.read_text())
        result["model"]["revision"] = revision
        path.write_text(json.dumps(result))
    name = ONE.models[0]
    assert set(load(tmp_path)["model"]) >= {f"{name}@aaaaaa", f"{name}@bbbbbb"}
    assert name in caplog.text

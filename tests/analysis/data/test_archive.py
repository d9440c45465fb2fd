"""An archive gives the same frame as the folder it was packed from, and a study can resume from it."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from analysis.data import archive
from analysis.data.archive import NothingToRead
from analysis.data.load import load
from pruning.core.errors import DamagedError, InputError
from pruning.core.storage import read_json, write_record
from tests.helpers.analysis_grid import Study, write

SMALL = Study(
    models=("smollm2",), ratios=(0.1,), objectives=("perplexity",), algos=("greedy",), seeds=(0, 1), lost=0
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study named small, with an unfinished cell that has computed scores, and with a log."""
    folder = tmp_path / "results"
    keys = write(folder, SMALL)
    (folder / keys[0] / "launch.log").write_text("not for the archive", encoding="utf-8")
    (folder / keys[1] / "result.json").unlink()
    (folder / "scores" / "key").mkdir(parents=True)
    (folder / "scores" / "key" / keys[1]).touch()
    return folder


@pytest.fixture
def packed(results: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "small.tar.xz"
    assert archive.pack(results, "small", path) == 3
    return path


def test_an_archive_and_its_folder_give_the_same_frame(results: Path, packed: Path) -> None:
    pd.testing.assert_frame_equal(load(str(packed), "small"), load(results, "small"))


def test_scores_of_an_unfinished_cell_are_packed_and_logs_are_not(packed: Path, tmp_path: Path) -> None:
    archive.unpack(packed, tmp_path / "new")
    names = {
        str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()
    }
    assert sum(name.endswith("trace.jsonl") for name in names) == 4
    assert sum(name.startswith("scores/key/") for name in names) == 1
    assert not any(name.endswith("launch.log") for name in names)


def test_equal_files_give_equal_bytes(results: Path, packed: Path, tmp_path: Path) -> None:
    for path in results.rglob("trace.jsonl"):
        path.touch()
    archive.pack(results, "small", tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == packed.read_bytes()


def test_the_path_of_the_folder_is_not_packed(results: Path, tmp_path: Path) -> None:
    config = next(results.rglob("result.json")).with_name("config.yaml")
    config.write_text(f"results: {results}\nstudy: small\n", encoding="utf-8")
    archive.pack(results, "small", tmp_path / "again.tar.xz")
    archive.unpack(tmp_path / "again.tar.xz", tmp_path / "new")
    packed = tmp_path / "new" / config.relative_to(results)
    assert packed.read_text(encoding="utf-8") == "results: results\nstudy: small\n"


def test_unpacking_keeps_existing_files(results: Path, packed: Path) -> None:
    trace = next(results.rglob("trace.jsonl"))
    trace.write_text("longer by now", encoding="utf-8")
    archive.unpack(packed, results)
    assert trace.read_text(encoding="utf-8") == "longer by now"


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_nothing_is_written_outside_the_folder(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match="no data of a study"):
        archive.unpack(tmp_path / "bad.tar.xz", tmp_path / "results")


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(NothingToRead, match=r"there is no archive gone\.tar\.xz"):
        load("gone.tar.xz")


def test_records_of_routing_and_of_tried_candidates_are_packed(results: Path, tmp_path: Path) -> None:
    (cell,) = [path.parent for path in results.glob("*/result.json")][:1]
    wanted = [
        *(
            "routing/one/routing.json",
            f"{cell.name}/healed/trials-0a.jsonl",
            f"{cell.name}/healed/rates-0a.jsonl",
        ),
        f"{cell.name}/healed/mask-0a/key/heal.json",
    ]
    left = ["routing/one/router.npz", f"{cell.name}/healed/mask-0a/key/weights.safetensors"]
    for name in (*wanted, *left):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("{}")
    archive.pack(results, "small", tmp_path / "more.tar.xz")
    archive.unpack(tmp_path / "more.tar.xz", tmp_path / "again")
    assert all((tmp_path / "again" / name).exists() for name in wanted)
    assert not any((tmp_path / "again" / name).exists() for name in left)


def test_a_record_has_a_seal_of_its_own_after_the_path_is_replaced(results: Path, tmp_path: Path) -> None:
    (cell,) = [path.parent for path in results.glob("*/result.json")][:1]
    data = read_json(cell / "result.json")
    data["config"]["paths"] = {"results": str(results.resolve())}
    write_record(cell / "result.json", data)
    archive.pack(results, "small", tmp_path / "more.tar.xz")
    archive.unpack(tmp_path / "more.tar.xz", tmp_path / "again")
    again = tmp_path / "again" / cell.name / "result.json"
    assert read_json(again)["config"]["paths"] == {"results": "results"}
    assert "seal" in again.read_text()
    edited = (cell / "result.json").read_text().replace('"status": "done"', '"status": "gone"')
    (cell / "result.json").write_text(edited)
    with pytest.raises(DamagedError, match=r"result\.json"):
        archive.pack(results, "small", tmp_path / "edited.tar.xz")


@pytest.mark.parametrize("where", ["calibration/x.jsonl", "evaluation/z/a.json", "scores"])
def test_what_links_lead_to_is_not_packed(where: str, results: Path, tmp_path: Path) -> None:
    (private := tmp_path / "private").mkdir()
    (private / "a.json").write_text("secret")
    link = results / where
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(private if "." not in link.name else private / "a.json")
    (private / "a.jsonl").write_text("secret")
    with pytest.raises(InputError, match=f"{link.name} is a symbolic link"):
        archive.pack(results, "small", tmp_path / "more.tar.xz")

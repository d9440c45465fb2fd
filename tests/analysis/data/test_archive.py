"""What an archive holds, and that it gives the same frame as its folder. tests/hostile has what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.data import archive
from analysis.data.archive import NothingToRead
from analysis.data.load import load
from pruning.core import records
from pruning.core.errors import DamagedError, InputError
from pruning.core.storage import read_json, write_record
from tests.helpers.analysis_grid import ONE, write

STUDY = replace(ONE, objectives=("perplexity",), seeds=(0, 1))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study named small, with an unfinished cell that has computed scores, and with a log."""
    folder = tmp_path / "results"
    keys = write(folder, STUDY)
    (folder / keys[0] / "launch.log").write_text("not for the archive", encoding="utf-8")
    (folder / keys[1] / "result.json").unlink()
    (folder / "scores" / "key").mkdir(parents=True)
    (folder / "scores" / "key" / keys[1]).touch()
    return folder


@pytest.fixture
def cell(results: Path) -> Path:
    """A finished cell."""
    return next(results.glob("*/result.json")).parent


def again(results: Path) -> Path:
    """The folder after it was packed and unpacked."""
    place = results.parent / "again"
    archive.pack(results, ["small"], place / "small.tar.xz")
    archive.unpack(place / "small.tar.xz", place / "results")
    return place / "results"


def test_an_archive_and_its_folder_give_the_same_frame(results: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "out" / "small.tar.xz", tmp_path / "again.tar.xz"
    assert archive.pack(results, ["small"], first) == 3
    pd.testing.assert_frame_equal(load(archive.folder(first), "small"), load(results, "small"))
    for path in results.rglob("trace.jsonl"):
        path.touch()
    archive.pack(results, ["small"], second)
    assert second.read_bytes() == first.read_bytes(), "equal files give equal bytes"
    with pytest.raises(NothingToRead, match=r"gone\.tar\.xz"):
        archive.folder(Path("gone.tar.xz"))


def test_data_are_packed_and_logs_weights_and_private_paths_are_not(results: Path, cell: Path) -> None:
    healed = f"{cell.name}/healed"
    wanted = [f"{healed}/trials-0a.jsonl", f"{healed}/rates-0a.jsonl", f"{healed}/mask-0a/key/heal.json"]
    wanted.append("routing/one/routing.json")
    left = ["routing/one/router.npz", f"{healed}/mask-0a/key/weights.safetensors"]
    for name in (*wanted, *left):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("{}")
    (cell / "config.yaml").write_text(f"results: {results}\nstudy: small\n")
    unpacked = again(results)
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert names >= {*wanted}
    assert not names & {*left}
    counts = {end: sum(end in name for name in names) for end in ("trace.jsonl", "scores/key/", "launch.log")}
    assert counts == {"trace.jsonl": 4, "scores/key/": 1, "launch.log": 0}
    assert (unpacked / cell.name / "config.yaml").read_text() == "results: results\nstudy: small\n"


def test_a_study_is_packed_without_what_others_use_and_several_without_repeats(
    results: Path, tmp_path: Path
) -> None:
    """Each cell gets a measurement, and the second study has one cell of the first and one of its own."""
    cells = sorted(path.parent for path in results.glob("*/result.json"))
    (measured := results / "evaluation" / "ppl-text").mkdir(parents=True)
    for cell in cells:
        data = read_json(cell / "result.json")
        data["evaluation"]["records"] = {"ppl/text": {"pruned": f"evaluation/ppl-text/{cell.name}.json"}}
        write_record(cell / "result.json", data)
        for end in (".json", ".terms.json"):
            (measured / f"{cell.name}{end}").write_text("{}")
    one, two, three = (cell.name for cell in cells)
    records.write_study(results, "first", [one, two])
    records.write_study(results, "second", [two, three])
    for studies, held in ((("first",), (one, two)), (("first", "second"), (one, two, three))):
        place = tmp_path / "-".join(studies)
        archive.pack(results, studies, place / "packed.tar.xz")
        archive.unpack(place / "packed.tar.xz", place / "results")
        found = {path.name for path in (place / "results" / "evaluation").rglob("*.json")}
        assert found == {f"{key}{end}" for key in held for end in (".json", ".terms.json")}
        assert {path.stem for path in (place / "results" / "studies").iterdir()} == {*studies}


def test_a_record_has_a_seal_of_its_own_after_the_path_is_replaced(results: Path, cell: Path) -> None:
    data = read_json(cell / "result.json")
    data["config"]["paths"] = {"results": str(results.resolve())}
    write_record(cell / "result.json", data)
    packed = again(results) / cell.name / "result.json"
    assert read_json(packed)["config"]["paths"] == {"results": "results"}
    assert "seal" in packed.read_text()
    edited = (cell / "result.json").read_text().replace('"status": "done"', '"status": "gone"')
    (cell / "result.json").write_text(edited)
    with pytest.raises(DamagedError, match=r"result\.json"):
        archive.pack(results, ["small"], results.parent / "edited.tar.xz")


@pytest.mark.parametrize("where", ["evaluation/z/a.json", "scores"])
def test_what_links_lead_to_is_not_packed(where: str, results: Path, cell: Path, tmp_path: Path) -> None:
    data = read_json(cell / "result.json")
    data["evaluation"]["records"] = {"acc/z": {"pruned": "evaluation/z/a.json"}}
    write_record(cell / "result.json", data)
    (private := tmp_path / "private" / "key").mkdir(parents=True)
    for path in (private.parent / "a.json", private / cell.name):
        path.write_text("secret")
    link = results / where
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(private.parent if where == "scores" else private.parent / "a.json")
    with pytest.raises(InputError, match=f"{link.name} is a symbolic link"):
        archive.pack(results, ["small"], tmp_path / "more.tar.xz")

"""What an archive holds; archives that are damaged, planted or interrupted; job scripts that somebody changed."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.data import archive
from analysis.data.archive import NothingToRead, is_data
from analysis.data.load import load
from pruning.commands import main
from pruning.config.app import composed
from pruning.config.compose import cell_of
from pruning.core import records
from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score, mean, scored
from pruning.core.storage import append_line, read_json, write_record
from pruning.launcher.slurm import Slurm
from pruning.search.journal import Journal
from tests.helpers.analysis_grid import ONE, write
from tests.helpers.damage import tree
from tests.helpers.launchers import commands

STUDY = replace(ONE, objectives=("perplexity",), seeds=(0, 1))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study named small, with an unfinished cell that has computed scores, and with a log."""
    folder = tmp_path / "results"
    keys = write(folder, STUDY)
    (folder / keys[0] / "launch.log").write_text("not for the archive", encoding="utf-8")
    (folder / keys[1] / "result.json").unlink()
    (folder / "scores" / "key").mkdir(parents=True)
    (folder / "scores" / "key" / keys[1]).touch()
    return folder


@pytest.fixture
def cell(study: Path) -> Path:
    """A finished cell."""
    return next(study.glob("*/result.json")).parent


def again(study: Path) -> Path:
    """The folder after it was packed and unpacked."""
    place = study.parent / "again"
    archive.pack(study, ["small"], place / "small.tar.xz")
    archive.unpack(place / "small.tar.xz", place / "results")
    return place / "results"


def test_an_archive_and_its_folder_give_the_same_frame(study: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "out" / "small.tar.xz", tmp_path / "again.tar.xz"
    assert archive.pack(study, ["small"], first) == 3
    pd.testing.assert_frame_equal(load(archive.folder(first), "small"), load(study, "small"))
    for path in study.rglob("trace.jsonl"):
        path.touch()
    archive.pack(study, ["small"], second)
    assert second.read_bytes() == first.read_bytes(), "equal files give equal bytes"
    with pytest.raises(NothingToRead, match=r"gone\.tar\.xz"):
        archive.folder(Path("gone.tar.xz"))


def test_a_finished_cell_keeps_its_full_scores_and_the_costs_of_partial_ones(study: Path, cell: Path) -> None:
    terms = (0.123456789123, -7.87654321987, 7.75308642)
    mask, part = Mask(30, (1, 2)), Mask(30, (1, 3))
    full = Score(mask, mean(terms), terms, 0.5)
    (cell / "trace.jsonl").write_text("")
    for score in (full, Score(part, mean(terms[:2]), terms[:2], 0.25, 3)):
        append_line(cell / "trace.jsonl", score.to_line())
    path = again(study) / cell.name / "trace.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(scored(line), line["seconds"]) for line in lines] == [(3, 0.5), (2, 0.25)]
    kept = Journal.open(path, 30, Estimate((1.0,) * 3, (0,) * 3)).scores
    assert {*kept} == {mask}, "a partial score without terms is not known"
    assert kept[mask].loss == full.loss
    assert kept[mask].samples == pytest.approx(terms, abs=1e-6 * abs(full.loss))
    assert len(path.read_bytes()) < 250


def test_data_are_packed_and_logs_weights_and_private_paths_are_not(study: Path, cell: Path) -> None:
    healed = f"{cell.name}/healed"
    wanted = [f"{healed}/trials-0a.jsonl", f"{healed}/rates-0a.jsonl", f"{healed}/mask-0a/key/heal.json"]
    wanted.append("routing/one/routing.json")
    left = ["routing/one/router.npz", f"{healed}/mask-0a/key/weights.safetensors"]
    for name in (*wanted, *left):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("{}")
    (cell / "config.yaml").write_text(f"results: {study}\nstudy: small\n")
    unpacked = again(study)
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert names >= {*wanted}
    assert not names & {*left}
    counts = {end: sum(end in name for name in names) for end in ("trace.jsonl", "scores/key/", "launch.log")}
    assert counts == {"trace.jsonl": 4, "scores/key/": 1, "launch.log": 0}
    assert (unpacked / cell.name / "config.yaml").read_text() == "results: results\nstudy: small\n"


def test_a_study_is_packed_without_what_others_use_and_several_without_repeats(
    study: Path, tmp_path: Path
) -> None:
    """Each cell gets a measurement, and the second study has one cell of the first and one of its own."""
    cells = sorted(path.parent for path in study.glob("*/result.json"))
    (measured := study / "evaluation" / "ppl-text").mkdir(parents=True)
    for cell in cells:
        data = read_json(cell / "result.json")
        data["evaluation"]["records"] = {"ppl/text": {"pruned": f"evaluation/ppl-text/{cell.name}.json"}}
        write_record(cell / "result.json", data)
        for end in (".json", ".terms.json"):
            (measured / f"{cell.name}{end}").write_text("{}")
    one, two, three = (cell.name for cell in cells)
    records.write_study(study, "first", [one, two])
    records.write_study(study, "second", [two, three])
    for studies, held in ((("first",), (one, two)), (("first", "second"), (one, two, three))):
        place = tmp_path / "-".join(studies)
        archive.pack(study, studies, place / "packed.tar.xz")
        archive.unpack(place / "packed.tar.xz", place / "results")
        found = {path.name for path in (place / "results" / "evaluation").rglob("*.json")}
        assert found == {f"{key}{end}" for key in held for end in (".json", ".terms.json")}
        assert {path.stem for path in (place / "results" / "studies").iterdir()} == {*studies}


def test_a_record_has_a_seal_of_its_own_after_the_path_is_replaced(study: Path, cell: Path) -> None:
    data = read_json(cell / "result.json")
    data["config"]["paths"] = {"results": str(study.resolve())}
    write_record(cell / "result.json", data)
    packed = again(study) / cell.name / "result.json"
    assert read_json(packed)["config"]["paths"] == {"results": "results"}
    assert "seal" in packed.read_text()
    edited = (cell / "result.json").read_text().replace('"status": "done"', '"status": "gone"')
    (cell / "result.json").write_text(edited)
    with pytest.raises(DamagedError, match=r"result\.json"):
        archive.pack(study, ["small"], study.parent / "edited.tar.xz")


@pytest.mark.parametrize("where", ["evaluation/z/a.json", "scores"])
def test_what_links_lead_to_is_not_packed(where: str, study: Path, cell: Path, tmp_path: Path) -> None:
    data = read_json(cell / "result.json")
    data["evaluation"]["records"] = {"acc/z": {"pruned": "evaluation/z/a.json"}}
    write_record(cell / "result.json", data)
    (private := tmp_path / "private" / "key").mkdir(parents=True)
    for path in (private.parent / "a.json", private / cell.name):
        path.write_text("secret")
    link = study / where
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(private.parent if where == "scores" else private.parent / "a.json")
    with pytest.raises(InputError, match=f"{link.name} .*symbolic"):
        archive.pack(study, ["small"], tmp_path / "more.tar.xz")


CELL = "m-perplexity-greedy-r0.1-s0-0123456789ab"
FILES = {
    "studies/small.json": json.dumps({"study": "small", "cells": [CELL]}).encode(),
    f"{CELL}/config.yaml": b"seed: 0\n",
    f"{CELL}/trace.jsonl": b'{"dropped": []}\n' * 500,
    f"{CELL}/mask.json": b"{}",
    f"{CELL}/result.json": json.dumps(
        {"samples": "abc", "record": "evaluation/ppl-heldout-1/2.json"}
    ).encode(),
    f"scores/key/{CELL}": b"",
    "calibration/abc.jsonl": b"{}\n" * 500,
    "evaluation/ppl-heldout-1/2.json": b"{}",
}
DATA = (f"{CELL}/mask.json", b"{}")


def filled(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return filled(tmp_path / "source")


@pytest.fixture
def packed(results: Path, tmp_path: Path) -> Path:
    assert archive.pack(results, ["small"], tmp_path / "small.tar.xz") == 1
    return tmp_path / "small.tar.xz"


def tar_of(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, mode: Any = "w:xz") -> Path:
    with tarfile.open(path, mode) as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_is_packed_is_unpacked(packed: Path, tmp_path: Path) -> None:
    assert archive.unpack(packed, tmp_path / "new") == len(FILES)
    assert tree(tmp_path / "new") == FILES
    assert archive.unpack(packed, tmp_path / "new") == 0


NAMES = [
    *("code/0123/pruning/__init__.py", "mlflow.db", "jobs/cells-1/1_submitted.pkl", "studies/x.py", ""),
    *("../outside/result.json", "/outside/result.json", "scores/key/../../x", "a\nb/result.json"),
    *("result.json", "evaluation/key/x.lm_eval.json", f"./{CELL}/result.json"),
    *(f"{CELL}/{name}" for name in ("code/result.json", "sitecustomize.py", "launch.log", "/result.json")),
]
MEMBERS = {
    "symbolic link": special(f"{CELL}/trace.jsonl", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special(f"{CELL}/trace.jsonl", tarfile.LNKTYPE, f"{CELL}/mask.json"),
    "device": special(f"{CELL}/trace.jsonl", tarfile.CHRTYPE),
    "pipe": special(f"{CELL}/trace.jsonl", tarfile.FIFOTYPE),
    "folder": special(CELL, tarfile.DIRTYPE),
    "twice": special(f"{CELL}/mask.json", tarfile.REGTYPE),
    **{name: special(name, tarfile.REGTYPE) for name in NAMES},
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_only_files_of_known_names_are_unpacked(kind: str, tmp_path: Path) -> None:
    bad = tar_of(tmp_path / "bad.tar.xz", DATA, MEMBERS[kind])
    with pytest.raises(InputError, match=r"bad\.tar\.xz"):
        archive.unpack(bad, tmp_path / "new")
    assert not any(map(is_data, NAMES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar.xz"]


@pytest.mark.parametrize(("multiple", "largest"), [(500, 10**12), (10**9, 10**7)])
def test_an_archive_that_is_much_larger_when_unpacked_is_refused_before_that(
    multiple: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tar_of(tmp_path / "bomb.tar.xz", DATA, (f"{CELL}/trace.jsonl", bytes(20_000_000)))
    monkeypatch.setattr(archive, "MULTIPLE", multiple)
    monkeypatch.setattr(archive, "LARGEST", largest)
    monkeypatch.setattr(archive, "_extract", None)  # unpacking would fail
    size = bomb.stat().st_size
    limit = min(multiple * size, largest)
    with pytest.raises(InputError, match=rf"bomb\.tar\.xz has {size:,} bytes .*more than {limit:,}"):
        archive.unpack(bomb, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """Its header says 1 TB, of which the archive has nothing."""
    info = tarfile.TarInfo(f"{CELL}/trace.jsonl")
    info.pax_headers = {
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": "1000000000000",
        "GNU.sparse.numblocks": "1",
    }
    bad = tmp_path / "bad.tar.xz"
    with tarfile.open(bad, "w:xz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with tarfile.open(bad) as tar:
        (member,) = tar
        assert (member.isreg(), member.issparse(), member.size) == (True, True, 10**12)
    with pytest.raises(InputError, match=r"trace\.jsonl.* does not belong"):
        archive.unpack(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("link", [CELL, "calibration", "evaluation/ppl-heldout-1"])
def test_links_in_the_folder_are_not_followed(link: str, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "new" / link).parent.mkdir(parents=True)
    (tmp_path / "new" / link).symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=link):
        archive.unpack(packed, tmp_path / "new")
    assert not any((tmp_path / "victim").iterdir())
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == []


def test_existing_files_are_kept_and_those_that_differ_are_named(
    packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = filled(tmp_path / "new")
    (new / CELL / "trace.jsonl").write_bytes(FILES[f"{CELL}/trace.jsonl"] + b'{"dropped": [1]}\n')  # went on
    archive.unpack(packed, new)
    assert not caplog.text
    (new / CELL / "mask.json").write_bytes(b"[")
    (new / CELL / "config.yaml").unlink()
    (new / CELL / "config.yaml").symlink_to(tmp_path / "victim")
    assert archive.unpack(packed, new) == 0
    assert (new / CELL / "mask.json").read_bytes() == b"["
    assert not (tmp_path / "victim").exists()
    assert f"kept: {CELL}/config.yaml, {CELL}/mask.json" in caplog.text


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut in its last bytes": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "a bit flipped": lambda path: path.write_bytes(
        (data := path.read_bytes())[:200] + bytes([data[200] ^ 8]) + data[201:]
    ),
    "uncompressed": lambda path: tar_of(path, DATA, mode="w:"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_changes_nothing(damage: str, packed: Path, tmp_path: Path) -> None:
    DAMAGE[damage](packed)
    with pytest.raises(InputError, match=r"small\.tar\.xz is damaged"):
        archive.unpack(packed, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def in_a_process_that_is_killed(work: Callable[[], object]) -> None:
    if (child := os.fork()) == 0:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_files_are_put_in_place_leaves_whole_files(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, new = Path.rename, tmp_path / "new"
    for files in range(1, len(FILES)):
        with monkeypatch.context() as patch:
            calls = itertools.repeat(put, 1)
            patch.setattr(Path, "rename", lambda *a, calls=calls: next(calls, die)(*a))
            in_a_process_that_is_killed(lambda: archive.unpack(packed, new))
        there = {name: data for name, data in tree(new).items() if not name.startswith(".part-")}
        assert there.items() <= FILES.items()
        assert len(there) == files
        if f"{CELL}/result.json" in there:
            assert f"{CELL}/trace.jsonl" in there, "a result says that its cell is complete"
    archive.unpack(packed, new)
    assert FILES.items() <= tree(new).items()


# The words of a command, and what its refusal names.
COMMANDS = [
    ("unpack source new", r"^source .*read"),
    ("unpack text.tar.xz new", r"^text\.tar\.xz .*damaged"),
    ("unpack small.tar.xz text.tar.xz", r"^text\.tar\.xz .*\(File exists\)"),
    ("unpack small.tar.xz dangling", r"^dangling .*\(File exists\)"),
    ("unpack small.tar.xz halves", "halves/calibration "),
    ("pack gone small a.tar.xz", "gone"),
    ("pack source smal a.tar.xz", r"'smal'.* small\?"),
    ("pack source ../small a.tar.xz", r"'\.\./small'"),
    ("pack source small a.zip", r"a\.zip"),
    ("pack source small folder.tar.xz", r"^folder\.tar\.xz .* file"),
    ("pack source small text.tar.xz/a.tar.xz", r"^text\.tar\.xz/a\.tar\.xz .*packed"),
    ("pack source planted a.tar.xz", r"planted\.json .*'\.\./\.\./etc'"),
    ("pack source list a.tar.xz", r"list\.json .*damaged"),
]
ODD = {"planted": b'{"cells": ["../../etc"]}', "list": b"[]"}


@pytest.mark.parametrize(("words", "named"), COMMANDS)
def test_the_command_says_what_is_wrong_in_a_sentence(
    words: str,
    named: str,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(tmp_path, {"text.tar.xz": b"text", "halves/calibration": b""})
    filled(tmp_path / "source" / "studies", {f"{name}.json": data for name, data in ODD.items()})
    Path("folder.tar.xz").mkdir()
    Path("dangling").symlink_to("nowhere")
    monkeypatch.setattr(sys, "argv", ["depth-pruning", "archive", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.search(named, said := capsys.readouterr().err)
    assert said.count("\n") == 1
    assert not Path("a.tar.xz").exists()
    assert not Path("new").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


# -- scripts of jobs -----------------------------------------------------------------------------------------

BREAKS = [
    (Slurm(partition="gpu\n#SBATCH --uid=root"), "launcher.partition"),
    (Slurm(account="a\rb"), "launcher.account"),
    (Slurm(setup=["module load cuda", "true\nrm -r /"]), "launcher.setup"),
    (Slurm(python="python\n"), "launcher.python"),
    (Slurm(srun=["--a\nb"]), "launcher.srun"),
    (Slurm(options={"a\nrm -r /": 1}), "launcher.options"),
    (Slurm(options={"exclude": ["a", "b\x85"]}), "launcher.options.exclude"),
]


@pytest.mark.parametrize(("launcher", "name"), BREAKS)
def test_a_setting_cannot_add_a_line_to_a_script(
    launcher: Slurm, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = commands(tmp_path, monkeypatch, {"sbatch": "", "scontrol": ""})
    with pytest.raises(InputError, match=rf"^{name}=.*control character"):
        launcher.check({})
    assert calls.read_text() == ""


def test_a_line_break_in_the_results_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^paths.results=.*control character"):
        cell_of(composed([f"paths.results='{tmp_path}/a\n#SBATCH --b'"]), {})

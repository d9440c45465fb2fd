"""What an export must never destroy, and errors of one sentence before anything is written."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import model_card as card_module
from pruning.export.model_card import code, code_block, escaped, model_card, portable
from pruning.export.output_dir import check_target, directory
from pruning.export.pipeline import export, written
from pruning.export.request import Request
from pruning.models.handle import Model
from tests.conftest import Command
from tests.export.test_model_card import FACTS, RESULT
from tests.helpers.damage import edit_json, edit_weights, tree

N = 6
RECORD, TEMPLATES = "depth_pruning.json", "additional_chat_templates"


def request(folder: Path, out: Path, *dropped: int, **settings: Any) -> Request:
    model = Model("tiny", "local", str(folder), dtype="float32")
    return Request(model, Mask(N, dropped or (2,)), out, verify=False, **settings)


@pytest.fixture
def dense(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tests' model with a further chat template, which is in a folder."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "dense"))
    (folder / TEMPLATES).mkdir()
    (folder / TEMPLATES / "tool_use.jinja").write_text("{{ 2 }}")
    return folder


@pytest.fixture
def made(dense: Path, tmp_path: Path) -> Path:
    """An export in the directory `out`."""
    export(request(dense, tmp_path / "out"))
    return tmp_path / "out"


def linked(out: Path) -> None:
    (out / "README.md").rename(out.parent / "mine.md")
    (out / "README.md").symlink_to(out.parent / "mine.md")


def linked_folder(out: Path) -> None:
    (out / TEMPLATES).rename(out.parent / "elsewhere")
    (out / TEMPLATES).symlink_to("../elsewhere")


def add_to_record(out: Path) -> None:
    (out / "NOTES.md").write_text("precious")
    edit_json(out / RECORD, lambda record: record["files"].update({"NOTES.md": "0" * 64}))


# What is in the directory of an export, and what the refusal names.
OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "notes": (lambda out: (out / "NOTES.md").write_text("x"), "holds NOTES.md"),
    "training": (lambda out: (out / "checkpoint-500").mkdir(), "holds checkpoint-500"),
    "hidden": (lambda out: (out / ".git").mkdir(), r"holds \.git"),
    "edited": (lambda out: (out / "README.md").write_text("mine"), "README.md changed"),
    "tuned": (lambda out: (out / "model.safetensors").write_bytes(b"x"), "model.safetensors changed"),
    "link": (linked, "holds README.md"),
    "template": (lambda out: (out / TEMPLATES / "mine.jinja").write_text("x"), rf"holds {TEMPLATES}/mine"),
    "folder": (linked_folder, f"holds {TEMPLATES}"),
    "forged": (add_to_record, "no export"),
    "no digests": (lambda out: (out / RECORD).write_text('{"mask": {}}'), "no export"),
    "record damaged": (lambda out: (out / RECORD).write_text("{"), "no export"),
    "record lost": (lambda out: (out / RECORD).unlink(), "no export"),
    "record odd": (lambda out: (out / RECORD).write_text('{"files": [1]}'), "no export"),
}


def refused(wanted: Request, named: str) -> None:
    """Both with and without `force`, an export is refused and changes nothing."""
    before = tree(wanted.out)
    for force in (False, True):
        with pytest.raises(InputError, match=named):
            export(replace(wanted, force=force))
    assert tree(wanted.out) == before
    assert not list(wanted.out.parent.glob(f".{wanted.out.name}*"))


@pytest.mark.parametrize(("change", "named"), OTHERS.values(), ids=OTHERS)
def test_what_no_export_wrote_is_never_replaced(
    change: Callable[[Path], Any], named: str, dense: Path, made: Path
) -> None:
    change(made)
    folders = {path for path in made.rglob("*") if path.is_dir()}
    refused(request(dense, made), named)
    assert {path for path in made.rglob("*") if path.is_dir()} == folders


def test_an_export_of_another_model_is_not_replaced(dense: Path, made: Path) -> None:
    edit_weights(dense, lambda tensors: tensors | {"model.norm.weight": tensors["model.norm.weight"] + 1})
    before = tree(made)
    with pytest.raises(InputError, match=r" model: .*force=true"):
        export(request(dense, made))
    assert tree(made) == before


def test_a_lost_file_of_an_export_does_not_stop_its_replacement(dense: Path, made: Path) -> None:
    before = tree(made)
    (made / "LICENSE").unlink(missing_ok=True)
    (made / "generation_config.json").unlink()
    export(request(dense, made))
    assert tree(made) == before


def test_what_appears_during_an_export_is_kept(
    dense: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = card_module.model_card

    def late(*given: Any) -> str:
        (made / "NOTES.md").write_text("precious")
        return write(*given)

    monkeypatch.setattr(card_module, "model_card", late)
    with pytest.raises(InputError, match="holds NOTES"):
        export(request(dense, made, force=True))
    assert (made / "NOTES.md").read_text() == "precious"
    assert not list(made.parent.glob(".out*"))


def test_an_empty_directory_and_a_link_to_one_are_used(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    export(request(dense, directory(tmp_path / "link")))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "model.safetensors").exists()


BAD = {
    **{out: f"'{re.escape(out)}'" for out in ("", "  ", ".")},
    "/proc/out": "/proc/out",
    "/proc": "/proc",
    "/dev/null": "/dev/null",
    "/dev/null/out": "/dev/null/out",
    "x" * 300: "xxx",
}


@pytest.mark.parametrize("out", BAD)
def test_an_output_directory_that_cannot_be_is_refused(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=BAD[out]):
        check_target(directory(out))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("export=", "export=''"),
        ("export=/proc/out", "/proc/out"),
        ("export=results/..", r"export=(/\S+) .*\1/results"),
        ("paths.results=/proc/results", "/proc/results"),
        ("paths.results=' '", r"paths\.results"),
    ],
)
def test_a_launch_is_refused_before_the_search(launch: Command, word: str, named: str) -> None:
    ended = launch("k=1", word)
    assert (ended.status, ended.all()) == (2, [])
    assert re.search(named, " ".join(ended.err.split()))
    assert ended.err.count("\n") == 2  # the first line is printed at once: reading the settings


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("No space left on device (os error 28)"),
]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("checkpoint.write_shards", FULL[1]),
        ("output_dir.write_record", FULL[0]),
        ("checkpoint.write_config", FULL[0]),
    ],
)
def test_a_full_disk_leaves_nothing_over(
    step: str, error: Exception, dense: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise error

    before = tree(made.parent)
    monkeypatch.setattr(f"pruning.export.{step}", full)
    with pytest.raises(InputError, match=r"out .*\(No space left on device\)"):
        export(request(dense, made))
    assert tree(made.parent) == before


NASTY = "<script>alert(1)</script>|`x`\n\n# h [a](b) ![c](d) **e**"


def test_a_card_shows_text_of_users_as_text() -> None:
    result = json.loads(json.dumps(RESULT))
    result["calibration"]["source"] = f"/home/me/{NASTY.replace('/', '')} + commonsense"
    result["cell"] = "`a\n<b>"
    for values in (result["evaluation"]["dense"], result["evaluation"]["pruned"]):
        values[f"ppl/{NASTY}"] = 3.0
    result["evaluation"]["how"][f"ppl/{NASTY}"] = {"path": "/home/me/x.txt", NASTY: NASTY}
    text = model_card(replace(FACTS, base=NASTY, name=NASTY, commands=[f"a ```\n{NASTY}"], result=result))
    body = text.split("\n---\n", 1)[1]
    prose = re.sub(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", body, flags=re.DOTALL)  # without code
    assert "<" not in prose
    assert "/home/me" not in body
    rows = [line for line in body.splitlines() if line.startswith("| ppl/&lt;")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [4]
    assert not any(line.startswith("# h") for line in prose.splitlines())


def test_paths_and_names_are_made_portable() -> None:
    given = {"a": "/home/me/x", "b": ["~/y", 3], "c": "org/name"}
    assert portable(given) == {"a": "x", "b": ["y", 3], "c": "org/name"}
    assert (code("a`b"), code_block("```")) == ("`a'b`", "```\n'''\n```")
    assert escaped("my_text <b>") == "my_text &lt;b&gt;"


@pytest.mark.slow
def test_an_export_into_the_folder_of_its_model_or_of_a_cell_is_refused(
    model_folder: Path, launch: Command, tmp_path: Path
) -> None:
    model = shutil.copytree(model_folder, tmp_path / "model")
    assert launch("k=1", "algo=one_shot").status == 0
    (cell,) = (path.parent for path in (tmp_path / "results").glob("*/result.json"))
    (tmp_path / "linked").symlink_to(model)
    before = sorted(tmp_path.rglob("*"))
    for place in (model / "out", tmp_path / "linked" / "a" / "out", cell, cell / "out", cell / "out.gguf"):
        with pytest.raises(InputError, match=r"out=\S+ .*inside"):
            written(request(model, directory(place), 2))
    ended = launch("k=2", "algo=one_shot", f"export={cell / 'out'}")
    assert (ended.status, len(ended.all())) == (2, 1)
    assert str(cell) in " ".join(ended.err.split())
    written(request(model, cell / "smaller", 2))
    shutil.rmtree(cell / "smaller")
    with pytest.raises(InputError, match="out=/"):
        directory("/")
    assert sorted(tmp_path.rglob("*")) == before

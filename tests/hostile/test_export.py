"""What an export must never destroy, and errors of one sentence before anything is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import pruning
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import checkpoint
from pruning.export import model_card as card_module
from pruning.export.model_card import code, code_block, escaped, mergekit, model_card, portable
from pruning.export.output_dir import check_target, directory
from pruning.export.pipeline import export, written
from pruning.export.request import Request
from pruning.models import spec
from tests.conftest import Command
from tests.export.test_model_card import FACTS, RESULT

N = 6


def request(folder: Path, out: Path, *dropped: int, **settings: Any) -> Request:
    model = spec.Model("tiny", "local", str(folder), dtype="float32")
    return Request(model, Mask(N, dropped or (2,)), out, verify=False, **settings)


@pytest.fixture
def dense(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def made(dense: Path, tmp_path: Path) -> Path:
    """An export in the directory `out`."""
    export(request(dense, tmp_path / "out"))
    return tmp_path / "out"


def tree(folder: Path) -> dict[str, bytes | str]:
    """The contents of all files and links below a folder."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in paths
        if path.is_symlink() or path.is_file()
    }


def linked(out: Path) -> None:
    (out / "README.md").rename(out.parent / "mine.md")
    (out / "README.md").symlink_to(out.parent / "mine.md")


def edit_record(out: Path) -> None:
    record = json.loads((out / "depth_pruning.json").read_text())
    (out / "NOTES.md").write_text("precious")
    record["files"]["NOTES.md"] = "0" * 64
    (out / "depth_pruning.json").write_text(json.dumps(record))


def earlier_version(out: Path) -> None:
    record = json.loads((out / "depth_pruning.json").read_text())
    del record["files"], record["sha256"]
    (out / "depth_pruning.json").write_text(json.dumps(record | {"format": 1}))


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "notes": (lambda out: (out / "NOTES.md").write_text("x"), "holds NOTES.md, which the export"),
    "training": (lambda out: (out / "checkpoint-500").mkdir(), "holds checkpoint-500, which the export"),
    "results": (lambda out: (out / "results" / "cell").mkdir(parents=True), "holds results, which"),
    "hidden": (lambda out: (out / ".git").mkdir(), "holds .git, which the export"),
    "edited": (lambda out: (out / "README.md").write_text("mine"), "README.md changed after the export"),
    "tuned": (lambda out: (out / "model.safetensors").write_bytes(b"x"), "model.safetensors changed after"),
    "link": (linked, "holds README.md, which the export"),
    "forged": (edit_record, "and no export of this version"),
    "earlier version": (earlier_version, "and no export of this version. Move the directory away"),
    "record damaged": (lambda out: (out / "depth_pruning.json").write_text("{"), "and no export of this"),
    "record lost": (lambda out: (out / "depth_pruning.json").unlink(), "and no export of this version"),
    "record odd": (lambda out: (out / "depth_pruning.json").write_text('{"files": [1]}'), "no export of"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", OTHERS)
def test_what_no_export_wrote_is_never_replaced(case: str, force: bool, dense: Path, made: Path) -> None:
    change, message = OTHERS[case]
    change(made)
    before = tree(made)
    with pytest.raises(InputError, match=message):
        export(request(dense, made, force=force))
    assert tree(made) == before
    assert (made / "checkpoint-500").exists() == (case == "training")
    assert not list(made.parent.glob(".out*"))


def test_a_web_project_is_never_replaced(dense: Path, tmp_path: Path) -> None:
    project = tmp_path / "web"
    project.mkdir()
    (project / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"web holds config\.json, and no export"):
        export(request(dense, project, force=True))
    assert tree(project) == {"config.json": b"{}"}


@pytest.mark.parametrize("force", [False, True])
def test_an_export_of_another_model_is_never_replaced(
    force: bool, dense: Path, made: Path, tmp_path: Path
) -> None:
    tensors = load_file(dense / "model.safetensors")
    tensors["model.norm.weight"] += 1
    other = shutil.copytree(dense, tmp_path / "other")
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    before = tree(made)
    with pytest.raises(InputError, match=r"holds another export \(of another model\)"):
        export(request(other, made, force=force))
    assert tree(made) == before


def test_a_lost_file_of_an_export_does_not_stop_its_replacement(dense: Path, made: Path) -> None:
    before = tree(made)
    (made / "LICENSE").unlink(missing_ok=True)
    (made / "mergekit.yaml").unlink()
    export(request(dense, made))
    assert tree(made) == before


def test_what_appears_during_an_export_is_kept(
    dense: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = card_module.mergekit

    def late(*given: Any) -> str:
        (made / "NOTES.md").write_text("precious")
        return write(*given)

    monkeypatch.setattr(card_module, "mergekit", late)
    with pytest.raises(InputError, match=r"holds NOTES\.md"):
        export(request(dense, made, force=True))
    assert (made / "NOTES.md").read_text() == "precious"
    assert not list(made.parent.glob(".out*"))


@pytest.mark.parametrize(("second", "wins"), [((2,), True), ((3,), False)])
def test_of_two_exports_at_once_the_second_replaces_only_its_own(
    second: tuple[int, ...], wins: bool, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "out", card_module.mergekit

    def meanwhile(*given: Any) -> str:
        monkeypatch.setattr(card_module, "mergekit", write)
        export(request(dense, out, 2))
        return write(*given)

    monkeypatch.setattr(card_module, "mergekit", meanwhile)
    if wins:
        export(request(dense, out, *second))
    else:
        with pytest.raises(InputError, match="holds another export"):
            export(request(dense, out, *second))
    assert json.loads((out / "depth_pruning.json").read_text())["mask"]["dropped"] == [2]
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "out"}


def new_template(folder: Path) -> str:
    (folder / "mine.jinja").write_text("mine")
    return r"holds additional_chat_templates/mine\.jinja, which the export there did not write"


def changed_template(folder: Path) -> str:
    (folder / "tool_use.jinja").write_text("mine")
    return r"additional_chat_templates/tool_use\.jinja changed after the export there was written"


def nested_folder(folder: Path) -> str:
    (folder / "mine").mkdir()
    return r"holds additional_chat_templates/mine, which"


def linked_folder(folder: Path) -> str:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to("../elsewhere")
    return r"holds additional_chat_templates, which"


@pytest.mark.parametrize("change", [new_template, changed_template, nested_folder, linked_folder])
def test_changes_in_the_folder_of_chat_templates_are_seen(
    change: Callable[[Path], str], dense: Path, tmp_path: Path
) -> None:
    (dense / "additional_chat_templates").mkdir()
    (dense / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 2 }}")
    export(request(dense, out := tmp_path / "out"))
    message = change(out / "additional_chat_templates")
    before = tree(out)
    with pytest.raises(InputError, match=message):
        export(request(dense, out, force=True))
    assert tree(out) == before


def test_an_empty_directory_and_a_link_to_one_are_used(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    export(request(dense, directory(tmp_path / "link")))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "give a new directory"),
        ("  ", "give a new directory"),
        (".", "give a new directory"),
        ("/proc/out", "/proc/out cannot be used for an export"),
        ("/proc", "/proc cannot be used for an export|/proc is a mount point"),
        ("/dev/null", "/dev/null is a file: give a directory"),
        ("/dev/null/out", "/dev/null/out cannot be used for an export"),
        ("x" * 300, "cannot be used for an export"),
    ],
)
def test_an_output_directory_that_cannot_be_is_refused(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        check_target(directory(out))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export="], "export is empty: give a folder, export=DIR"),
        (["export=/proc/out"], "/proc/out cannot be used for an export"),
        (["export=results/.."], "contains the results folder"),
        (["paths.results=/proc/results"], "the results folder /proc/results cannot be written"),
        (["paths.results=' '"], "paths.results is empty"),
    ],
)
def test_a_launch_is_refused_before_the_search(launch: Command, words: list[str], message: str) -> None:
    ended = launch("k=1", *words)
    assert ended.status == 2
    assert message in " ".join(ended.err.split())
    assert ended.err.count("\n") == 2  # the first line is printed at once: reading the settings
    assert ended.all() == []


@pytest.mark.parametrize("bytes_left", [0, 5, 100, -1])
def test_truncated_weights_are_one_sentence(dense: Path, made: Path, bytes_left: int) -> None:
    weights, before = dense / "model.safetensors", tree(made)
    weights.write_bytes(weights.read_bytes()[:bytes_left])
    with pytest.raises(
        InputError, match=r"model\.safetensors is truncated or damaged: .* Fetch or copy it again"
    ):
        export(request(dense, made))
    assert tree(made) == before


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_one_sentence(dense: Path, tmp_path: Path, index: str) -> None:
    (dense / "model.safetensors").rename(dense / "model-1.safetensors")  # a single file would be read instead
    (dense / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json (holds no `weight_map`|is damaged)"):
        export(request(dense, tmp_path / "out"))


FULL: dict[str, Exception] = {
    "system": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "safetensors": SafetensorError("Error: I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("case", FULL)
@pytest.mark.parametrize(
    "step", ["checkpoint.write_shards", "output_dir.write_record", "checkpoint.write_config"]
)
def test_a_full_disk_leaves_nothing_over(
    case: str, step: str, dense: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise FULL[case]

    before = tree(made)
    monkeypatch.setattr(f"pruning.export.{step}", full)
    with pytest.raises(
        InputError, match=r"out cannot be written \(No space left on device\), and nothing was"
    ):
        export(request(dense, made))
    assert tree(made) == before
    assert {path.name for path in made.parent.iterdir()} == {"dense", "out"}


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
    prose = code_free(body)
    assert "<" not in prose
    assert "/home/me" not in body
    rows = [line for line in body.splitlines() if line.startswith("| ppl/&lt;")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [4]
    assert not any(line.startswith("# h") for line in prose.splitlines())


def code_free(text: str) -> str:
    """A text without its spans and blocks of code."""
    import re

    return re.sub(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def test_the_mergekit_file_has_no_path_and_no_line_of_users() -> None:
    text = mergekit(replace(FACTS, base="tiny", source="x\nmerge_method: evil"))
    assert "\nmerge_method: evil" not in text
    assert "Give the directory of the original model" in text


def test_paths_and_names_are_made_portable() -> None:
    assert portable({"a": "/home/me/x", "b": ["~/y", 3], "c": "org/name"}) == {
        "a": "x",
        "b": ["y", 3],
        "c": "org/name",
    }
    assert (code("a`b"), code_block("```")) == ("`` a`b ``", "````\n```\n````")
    assert escaped("my_text <b>") == "my_text &lt;b&gt;"


def test_a_local_export_names_no_local_path(made: Path) -> None:
    for name in ("README.md", "mergekit.yaml", "depth_pruning.json", "config.json"):
        assert str(made.parent) not in (made / name).read_text(), name


def test_the_written_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    from pruning.core.storage import file_sha256
    from pruning.export.checkpoint import DTYPES

    tensors = {name: torch.arange(7).to(getattr(torch, name)) for name in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "ü": torch.ones(2, 2).bfloat16()}
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    digest = checkpoint.write_tensors(tmp_path / "a", shapes, tensors.__getitem__)
    assert digest == file_sha256(tmp_path / "a")
    read = load_file(tmp_path / "a")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name].double(), tensor.double())


@pytest.mark.slow
def test_an_export_into_the_folder_of_its_model_or_into_results_is_refused(
    model_folder: Path, launch: Command, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    assert launch("k=1", "algo=one_shot").status == 0
    (cell,) = (path.parent for path in (tmp_path / "results").glob("*/result.json"))
    links = {name: tmp_path / name for name in ("to_model", "to_results")}
    links["to_model"].symlink_to(model)
    links["to_results"].symlink_to(tmp_path / "results")
    before = sorted(tmp_path.rglob("*"))
    for place in (
        model / "out",
        links["to_model"] / "a" / "out",
        cell,
        cell / "out",
        links["to_results"] / "out",
    ):
        for name in ("", ".gguf"):
            out = directory(f"{place}{name}")
            with pytest.raises(InputError, match=r"out=\S+ is inside"):
                written(request(model, out, 2))
            if not out.is_relative_to(model):
                ended = launch("k=2", "algo=one_shot", f"export={out}")
                assert (ended.status, len(ended.all())) == (2, 1)
                assert str(tmp_path / "results") in " ".join(ended.err.split())
    loaded = pruning.load_model(model, dtype="float32")
    with pytest.raises(InputError, match="results"):
        pruning.export_model(loaded, Mask(N, (2,)), links["to_results"] / "out")
    usual = cell / "smaller"
    written(request(model, usual, 2))
    shutil.rmtree(usual)
    ended = launch("k=2", f"export={tmp_path / 'new' / 'out'}", f"paths.results={tmp_path / 'new'}")
    assert (ended.status, (tmp_path / "new" / "out").exists()) == (2, False)
    with pytest.raises(InputError, match="out=/"):
        directory("/")
    assert sorted(path for path in tmp_path.rglob("*") if "new" not in path.parts) == before

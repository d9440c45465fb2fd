"""What a study of tasks refuses before anything is computed, and which blocks a router may run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.routing.encoders import first_blocks, prompt_rows
from pruning.routing.router_settings import RouterSettings, TaskStudy
from tests.helpers.task_files import task_folder


def test_each_file_of_items_is_a_task(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    (folder / "notes.txt").write_text("no items")
    names = [path.name for path in TaskStudy(folder=str(folder)).files()]
    assert names == ["animals.jsonl", "tools.jsonl"]


@pytest.mark.parametrize(
    ("made", "settings", "says"),
    [
        ((), {"folder": None, "cross": True}, "tasks.folder is not set, and at least two tasks are needed"),
        ((), {}, "holds no .jsonl or .json file"),
        (("animals",), {"embedded": False}, "holds one task, animals.jsonl, and at least two are needed"),
        (("animals",), {"folder": "absent"}, "there is no such folder"),
    ],
)
def test_a_folder_without_two_tasks_is_refused(
    tmp_path: Path, made: tuple[str, ...], settings: dict[str, Any], says: str
) -> None:
    folder = task_folder(tmp_path / "tasks", tasks=made)
    with pytest.raises(InputError) as found:
        TaskStudy(**({"folder": str(folder)} | settings)).files()
    assert says in str(found.value)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    (folder / "animals.json").write_text("[]")
    with pytest.raises(InputError, match="two tasks are named 'animals'"):
        TaskStudy(folder=str(folder)).files()


def test_hidden_files_are_no_tasks(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    for name in (".a.jsonl", "._animals.jsonl", "._tools.jsonl"):
        (folder / name).write_bytes(b"\0\5\x16\7 no items")
    assert [path.name for path in TaskStudy(folder=str(folder)).files()] == ["animals.jsonl", "tools.jsonl"]


def test_two_files_with_equal_items_are_named(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    shutil.copy(folder / "tools.jsonl", folder / "utensils.jsonl")
    with pytest.raises(InputError, match=r"tools\.jsonl and utensils\.jsonl"):
        TaskStudy(folder=str(folder)).files()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"encoder": "stats"}, "unknown router.encoder 'stats'. Did you mean states?"),
        ({"head": "tree"}, "unknown router.head 'tree'"),
        ({"target": "loss"}, "unknown router.target 'loss'"),
        ({"blocks": -1}, "router.blocks=-1 is too small"),
        ({"hidden": 0}, "router.hidden=0 is too small"),
    ],
)
def test_a_wrong_setting_of_the_router_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as found:
        RouterSettings(**settings).check()
    assert says in str(found.value)


def test_a_rewording_must_ask_the_question() -> None:
    with pytest.raises(InputError, match=r"tasks\.rewording"):
        TaskStudy(rewording="Q:").check()


def test_a_router_runs_only_blocks_that_every_set_keeps() -> None:
    sets = [Mask(20, (9, 12)), Mask(20, (3, 4))]
    assert first_blocks(sets, None) == 3
    assert first_blocks([Mask(20, (9,))], None) == 5, "at most a quarter"
    assert first_blocks([Mask(20, (7, 30), "sublayer")], None) == 3, "a part of block 3 is dropped"
    assert first_blocks([Mask(20, (0,))], None) == 0
    assert first_blocks(sets, 2) == 2
    with pytest.raises(InputError, match="choose 3 or fewer"):
        first_blocks(sets, 4)


def test_prompts_that_are_too_short_or_too_long_are_refused(tokenizer: Any) -> None:
    assert len(prompt_rows(tokenizer, ["What is it?"])[0].input_ids) > 2
    with pytest.raises(InputError, match="fewer than two tokens"):
        prompt_rows(tokenizer, [""])
    with pytest.raises(InputError, match="reads at most 4"):
        prompt_rows(tokenizer, ["What is it, and why is it so?"], 4)

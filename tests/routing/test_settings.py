"""What a study of tasks refuses before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.routing.task_study import TaskStudy
from tests.helpers.task_files import task_folder


def test_each_shown_file_of_items_is_a_task(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    for name in ("notes.txt", ".a.jsonl", "._animals.jsonl", "._tools.jsonl"):
        (folder / name).write_bytes(b"\0\5\x16\7 no items")
    names = [path.name for path in TaskStudy(folder=str(folder)).files()]
    assert names == ["animals.jsonl", "tools.jsonl"]


@pytest.mark.parametrize(
    ("made", "settings", "named"),
    [
        ((), {"folder": None, "cross": True}, r"tasks\.folder is not set"),
        ((), {}, r"no \.jsonl or \.json"),
        (("animals",), {"embedded": False}, r"animals\.jsonl.*tasks\.embedded=true"),
        (("animals",), {"folder": "absent"}, r"tasks\.folder=absent"),
        (("animals", "tools", "animals.json"), {}, "'animals'"),
    ],
)
def test_a_folder_without_two_tasks_is_refused(
    tmp_path: Path, made: tuple[str, ...], settings: dict[str, Any], named: str
) -> None:
    folder = task_folder(tmp_path / "tasks", tasks=tuple(name for name in made if "." not in name))
    for name in made:
        if "." in name:
            shutil.copy(folder / "tools.jsonl", folder / name)
    with pytest.raises(InputError, match=named):
        TaskStudy(**({"folder": str(folder)} | settings)).files()


def test_a_wrong_rewording_is_named() -> None:
    with pytest.raises(InputError, match=r"tasks\.rewording"):
        TaskStudy(rewording="Q:").check()

"""Files of items for studies of tasks. Tasks ask about different words, so that a router can distinguish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = {"animals": ("horse", "snail", "wolf"), "tools": ("hammer", "spoon", "ladder")}


def items_of(task: str, count: int) -> list[dict[str, Any]]:
    """Distinct items of a task; the position of the right answer varies."""
    words = WORDS[task]
    return [
        {
            "question": f"Which of these {task} has the number {number}?",
            "choices": [f"a {word} {number}" for word in words],
            "answer": number % len(words),
        }
        for number in range(count)
    ]


def task_folder(folder: Path, count: int = 24, tasks: tuple[str, ...] = ("animals", "tools")) -> Path:
    """Write a file of items for each task to a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        lines = "".join(json.dumps(item) + "\n" for item in items_of(task, count))
        (folder / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    return folder

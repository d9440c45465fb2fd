"""Tokenizers for tests, and the files that they read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Numbers:
    """A tokenizer for texts of numbers, which are the ids: "5 6 7" becomes [5, 6, 7]; "5+6" is one token, 11."""

    bos_token_id: int | None = None

    def __call__(self, text: str | list[str], **_: Any) -> SimpleNamespace:
        ids = [self._ids(t) for t in text] if isinstance(text, list) else self._ids(text)
        return SimpleNamespace(input_ids=ids)

    def _ids(self, text: str) -> list[int]:
        return [sum(map(int, word.split("+"))) for word in text.split() if word[0].isdigit()]


def with_bos(tokenizer: Any) -> Any:
    """A copy of a tokenizer that starts every text with <s>."""
    from tokenizers.processors import TemplateProcessing

    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"bos_token": "<s>"})
    special = [("<s>", changed.bos_token_id)]
    changed.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=special)
    return changed


def written(folder: Path, name: str, *lines: Any) -> Path:
    """Write a file of lines; lines that are not text are written as JSON. Returns the file's path."""
    (folder / name).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return folder / name

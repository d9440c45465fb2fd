"""Every pair of docs/footguns.md: the wrong code fails as its first line states, the right code gives `truth`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import gguf_models

PAGE = Path(__file__).parents[2] / "docs" / "footguns.md"
PREPARATION, *SECTIONS = PAGE.read_text(encoding="utf-8").split("\n## ")


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def same(result: Any, truth: Any) -> bool:
    if isinstance(truth, torch.Tensor):
        return result.shape == truth.shape and torch.allclose(result, truth, rtol=1e-4, atol=1e-4)
    return bool(result == truth)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0].replace("`", ""))
def test_a_pair(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gguf").mkdir()
    gguf_models.write(tmp_path / "gguf" / "tiny.gguf", type_="Q8_0")
    names: dict[str, Any] = {}
    exec(compile(blocks(PREPARATION)[0], str(PAGE), "exec"), names)
    names["ids"] = names["ids"] % 60  # the vocabulary of the GGUF file is smaller
    wrong, right = blocks(section)
    assert wrong.startswith("# wrong")
    assert right.startswith("# right")
    for code in (wrong, right):
        names.pop("result", None)
        if error := re.match(r"# \w+: raises (\w+)", code):
            with pytest.raises(Exception) as raised:
                exec(compile(code, str(PAGE), "exec"), names)
            assert raised.type.__name__ == error[1], raised.value
        else:
            exec(compile(code, str(PAGE), "exec"), names)
            assert same(names["result"], names["truth"]) == (code is right)

"""The engine gives lm-eval the answers that lm-eval's own model gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.evaluation.local import LocalFiles
from pruning.evaluation.zeroshot import Zeroshot
from tests.helpers.evaluations import forward_of, items_file, own_tasks, samples_of, tokenizer_of

pytestmark = pytest.mark.usefixtures("without_environment")


def answered(
    folder: Path, path: Path, dropped: tuple[int, ...], **settings: Any
) -> dict[str, tuple[Any, Any]]:
    """The metrics and the log-likelihoods that each scorer gives for a file of items."""
    found = {}
    for scorer in ("lm_eval", "engine"):
        evaluation = LocalFiles(items={"mine": str(path)}, scorer=scorer, **settings)
        forward = forward_of(folder)
        (task,) = evaluation.data(tokenizer_of(folder)).values()
        measured = evaluation.measure(forward, "acc/mine", task, Mask(forward.n_blocks, dropped))
        values = [float(x[0]) for one in samples_of(measured.files) for x in one["filtered_resps"]]
        found[scorer] = measured.metrics, values
    return found


@pytest.mark.parametrize("dropped", [(), (1, 2)])
@pytest.mark.parametrize("template", ["Question: {question}\nAnswer:", "{question}  "])
def test_both_scorers_give_the_same_log_likelihoods(
    folder: Path, tmp_path: Path, dropped: tuple[int, ...], template: str
) -> None:
    path = items_file(tmp_path / "items.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    del lines[3]  # the item with equal choices, whose order is rounding
    path.write_text("".join(lines))
    found = answered(folder, path, dropped, template=template)
    assert found["engine"][0] == found["lm_eval"][0]
    assert found["engine"][1] == pytest.approx(found["lm_eval"][1], abs=1e-4)
    assert len(set(found["engine"][1])) > 10, "all answers are equally likely, so nothing was compared"


def test_both_scorers_agree_where_the_choices_are_contexts(folder: Path, tmp_path: Path) -> None:
    """As in Winogrande: each choice completes another context, and all are judged by the same continuation."""
    path = tmp_path / "contexts.jsonl"
    names = [("the cat", "the dog"), ("a stone", "a feather"), ("my house", "your garden")]
    items = [
        {
            "context_options": [f"We saw {name}, since" for name in pair],
            "continuation": "it was there",
            "gold": i % 2,
        }
        for i, pair in enumerate(names)
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    found = answered(folder, path, (1,))
    assert found["engine"][0] == found["lm_eval"][0]
    assert found["engine"][1] == pytest.approx(found["lm_eval"][1], abs=1e-4)
    assert len(set(found["engine"][1])) == 6


def test_the_scorer_is_part_of_the_digest_of_the_data(folder: Path, tmp_path: Path) -> None:
    path = str(items_file(tmp_path / "items.jsonl"))
    digests = {
        LocalFiles(items={"mine": path}, scorer=scorer).data(tokenizer_of(folder))["acc/mine"].sha256
        for scorer in ("lm_eval", "engine")
    }
    assert len(digests) == 2


def test_tasks_that_need_more_than_log_likelihoods_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = own_tasks(tmp_path)
    monkeypatch.setattr("pruning.evaluation.zeroshot.manager", lambda: tasks)
    assert Zeroshot(["normed"], scorer="engine").data(tokenizer_of(folder))
    with pytest.raises(InputError, match="'other' has no accuracy"):
        Zeroshot(["other"]).data(tokenizer_of(folder))
    with pytest.raises(
        InputError, match=r"scorer=engine scores.*other.*brier_score: set eval\.scorer=lm_eval"
    ):
        Zeroshot(["other"], scorer="engine").data(tokenizer_of(folder))


def test_an_unknown_scorer_is_refused() -> None:
    with pytest.raises(InputError, match=r"eval\.scorer 'hf'\. Available: engine, lm_eval"):
        LocalFiles(items={"mine": "x.jsonl"}, scorer="hf")

"""The engine gives lm-eval the answers that lm-eval's own model gives."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.evaluation.heldout import LocalFiles
from pruning.evaluation.lm_eval_tasks import Zeroshot
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
    monkeypatch.setattr("pruning.evaluation.lm_eval_tasks.manager", lambda: tasks)
    assert Zeroshot(["normed"], scorer="engine").data(tokenizer_of(folder))
    with pytest.raises(InputError, match="'other' has no accuracy"):
        Zeroshot(["other"]).data(tokenizer_of(folder))
    with pytest.raises(
        InputError, match=r"scorer=engine scores.*other.*brier_score: set eval\.scorer=lm_eval"
    ):
        Zeroshot(["other"], scorer="engine").data(tokenizer_of(folder))


def promptless(folder: Path, choices: list[list[str]]) -> Any:
    """An index with a task without prompts, as BLiMP has them: only whole sentences are compared."""
    path = folder / "sentences.jsonl"
    path.write_text("".join(json.dumps({"choices": pair, "answer": 0}) + "\n" for pair in choices))
    task = {
        "task": "promptless",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "target_delimiter": "",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "promptless.yaml").write_text(yaml.safe_dump(task))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.mark.parametrize("special", ["none", "end", "bos"])
def test_both_scorers_agree_if_there_are_no_prompts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: str
) -> None:
    """Before an empty prompt, lm-eval puts the tokenizer's beginning or end of text, or token 0 (here `!`)."""
    index = promptless(tmp_path, [["The cat sees.", "The cat see."], ["!Go.", "!Goes."], ["a b", "b"]])
    monkeypatch.setattr("pruning.evaluation.lm_eval_tasks.manager", lambda: index)
    tokenizer, found = copy.deepcopy(tokenizer_of(folder)), {}
    if special != "none":
        setattr(
            tokenizer, f"{'eos' if special == 'end' else 'bos'}_token", tokenizer.convert_ids_to_tokens(7)
        )
    for scorer in ("lm_eval", "engine"):
        evaluation, forward = Zeroshot(["promptless"], scorer=scorer), forward_of(folder)
        (task,) = evaluation.data(tokenizer).values()
        measured = evaluation.measure(forward, "acc/promptless", task, Mask(forward.n_blocks, (1,)))
        found[scorer] = [float(x[0]) for one in samples_of(measured.files) for x in one["filtered_resps"]]
    assert found["engine"] == pytest.approx(found["lm_eval"], abs=1e-4)
    assert len(set(found["engine"])) == 6
    lengths = [len(row.input_ids) for row in task.rows]
    longest = max(lengths)
    assert task.too_long(longest - 1) == []
    assert task.too_long(longest - 2) == [lengths.index(longest) // 2]


def test_an_answer_that_cannot_be_scored_is_refused_with_the_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = promptless(tmp_path, [["The cat sees.", "The cat see."], ["It is.", ""]])
    monkeypatch.setattr("pruning.evaluation.lm_eval_tasks.manager", lambda: index)
    with pytest.raises(InputError, match="'promptless': the answer '' has no tokens"):
        Zeroshot(["promptless"], scorer="engine").data(tokenizer_of(folder))


def test_an_unknown_scorer_is_refused() -> None:
    with pytest.raises(InputError, match=r"eval\.scorer 'hf'\. Available: engine, lm_eval"):
        LocalFiles(items={"mine": "x.jsonl"}, scorer="hf")

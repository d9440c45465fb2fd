"""Local items and lm-eval's tasks: numbers and answers equal those of lm-eval on an exported checkpoint."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

from pruning.calibration.items import Items
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.evaluation import lm_eval_tasks
from pruning.evaluation.heldout import LocalFiles
from pruning.evaluation.lm_eval_tasks import Zeroshot
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.sublayers import masked
from pruning.runs.measurements import Evaluator
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import (
    forward_of,
    items_file,
    lm_eval_on,
    measured,
    own_tasks,
    samples_of,
    settings,
    tokenizer_of,
)

pytestmark = pytest.mark.usefixtures("without_environment")

MASK = Mask(N_BLOCKS, (1, 4))


def plain(folder: Path, path: Path, **options: Any) -> Any:
    """lm-eval's results for a checkpoint, called as its users call it."""
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    return lm_eval_on(folder, task, **options)


def answers(samples: list[dict[str, Any]]) -> list[Any]:
    return [
        (s["doc_id"], s["arguments"], s["resps"], s["acc"], s["acc_norm"])
        for s in json.loads(json.dumps(samples))
    ]


@pytest.mark.parametrize("limit", [None, 5])
def test_numbers_and_answers_are_those_of_lm_eval_on_the_exported_checkpoint(
    folder: Path, tmp_path: Path, limit: int | None
) -> None:
    path = items_file(tmp_path / "items.jsonl")
    found = measured(LocalFiles(items={"mine": str(path)}, limit=limit), folder, MASK)
    export(Request(settings(folder), MASK, tmp_path / "smaller"))
    expected = plain(tmp_path / "smaller", path, limit=limit)
    scores = expected["results"]["mine"]
    assert found.metrics == {
        "acc/mine": scores["acc_norm,none"],
        "acc/mine/stderr": scores["acc_norm_stderr,none"],
        "acc_plain/mine": scores["acc,none"],
        "acc_plain/mine/stderr": scores["acc_stderr,none"],
    }
    samples = samples_of(found.files)
    assert len(samples) == (limit or 12)
    assert answers(samples) == answers(expected["samples"]["mine"])
    assert json.loads(found.files["lm_eval.json"])["results"]["mine"]["acc,none"] == scores["acc,none"]
    how = {"items": limit or 12, "of": 12, "limit": limit, "metric": "acc_norm"}
    assert found.how | how == found.how
    terms = json.loads(found.files["terms.json"])
    assert sum(terms["hits"]) / len(terms["hits"]) == pytest.approx(found.metrics["acc/mine"])
    asked = [[float(choice[0][0]) for choice in sample["resps"]] for sample in samples]
    assert [pytest.approx(one, rel=1e-6) for one in asked] == terms["loglikelihoods"]


def test_a_pruned_model_is_never_given_the_dense_one_s_answers(folder: Path, tmp_path: Path) -> None:
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    masks, forward = [Mask(N_BLOCKS), MASK, Mask(N_BLOCKS), Mask(N_BLOCKS, (0,))], forward_of(folder)
    results = [samples_of(measured(evaluation, folder, mask, forward).files) for mask in masks]
    logliks = [[sample["resps"] for sample in samples] for samples in results]
    assert logliks[0] == logliks[2]
    assert len({json.dumps(values) for values in logliks}) == 3


def test_a_compensated_mask_is_asked_with_its_factors(folder: Path, tmp_path: Path) -> None:
    path = items_file(tmp_path / "items.jsonl", 4)
    evaluation, forward = LocalFiles(items={"mine": str(path)}), forward_of(folder)
    forward.scales = (1.0, 1.7, 1.0, 1.0, 0.6, 1.0)
    files = measured(evaluation, folder, MASK, forward).files
    samples = Items("file", 3, 0, str(items_file(tmp_path / "distinct.jsonl", 3))).draw(tokenizer_of(folder))
    ((_, engine, _),) = forward.loglikelihoods(samples.rows, [MASK])
    asked = [loglik[0][0] for sample in samples_of(files)[:3] for loglik in sample["resps"]]
    assert asked == pytest.approx(engine, rel=1e-4)
    forward.scales = None
    assert measured(evaluation, folder, MASK, forward).files != files


def test_data_are_identified_by_their_requests_not_by_the_file(folder: Path, tmp_path: Path) -> None:
    folder_tokenizer = tokenizer_of(folder)

    def digest(path: Path, **options: Any) -> str:
        return LocalFiles(items={"mine": str(path)}, **options).data(folder_tokenizer)["acc/mine"].sha256

    first = digest(items_file(tmp_path / "a.jsonl"))
    assert digest(items_file(tmp_path / "b.jsonl")) == first
    changes = ({"limit": 5}, {"template": "{question}"}, {"scorer": "engine"})
    others = [digest(tmp_path / "a.jsonl", **one) for one in changes]
    others.append(digest(items_file(tmp_path / "c.jsonl", seed=1)))
    assert len({first, *others}) == 5


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    manager = own_tasks(tmp_path)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: manager)
    return manager


@pytest.mark.usefixtures("index")
def test_acc_norm_is_reported_if_a_task_has_it_else_acc_and_their_mean(folder: Path, tmp_path: Path) -> None:
    evaluation = Zeroshot(["normed", "plain"], limit=7)
    data = evaluation.data(tokenizer_of(folder))
    assert [(name, task.metric) for name, task in data.items()] == [
        ("acc/normed", "acc_norm"),
        ("acc/plain", "acc"),
    ]
    folders = {name: tmp_path / name for name in data}
    found = Evaluator(evaluation, data, forward_of(folder), folders)(MASK)
    for name, metric in (("normed", "acc_norm"), ("plain", "acc")):
        (path,) = (tmp_path / "acc" / name).glob("*.lm_eval.json")
        scores = json.loads(path.read_text())["results"][name]
        assert found.metrics[f"acc/{name}"] == scores[f"{metric},none"]
        assert found.metrics[f"acc/{name}/stderr"] == scores[f"{metric}_stderr,none"]
    mean = (found.metrics["acc/normed"] + found.metrics["acc/plain"]) / 2
    assert found.metrics["acc/mean"] == pytest.approx(mean)
    assert found.how["acc/plain"]["limit"] == 7


def test_a_task_that_needs_an_absent_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs.py").write_text("import absent_package.parts\n")
    (tmp_path / "needy.yaml").write_text(
        "task: needy\ndataset_path: json\ntest_split: test\nprocess_docs: !function needs.texts\n"
    )
    own = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: own)
    with pytest.raises(InputError, match=r"'needy' .*absent_package"):
        Zeroshot(["needy"]).data(None)


def test_lm_eval_leaves_model_tokenizer_and_its_logger_as_they_were(folder: Path, tmp_path: Path) -> None:
    forward, folder_tokenizer = forward_of(folder), tokenizer_of(folder)
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    (task,) = evaluation.data(folder_tokenizer).values()
    before = [dict(vars(module)) for module in forward.model.module.modules()]
    with masked(forward.model.module, Mask(N_BLOCKS)):
        evaluation.measure(forward, "acc/mine", task, MASK)
    assert [dict(vars(module)) for module in forward.model.module.modules()] == before
    assert folder_tokenizer.pad_token_id is None
    assert logging.getLogger("lm_eval").level == logging.NOTSET


# The engine gives lm-eval the answers that lm-eval's own model gives.


def answered(evaluation: Any, tokenizer: Any, forward: Forward, dropped: tuple[int, ...]) -> tuple[Any, Any]:
    """The metrics and the log-likelihoods that an evaluation gives for its one task."""
    ((name, task),) = evaluation.data(tokenizer).items()
    found = evaluation.measure(forward, name, task, Mask(forward.n_blocks, dropped))
    values = [float(x[0]) for one in samples_of(found.files) for x in one["filtered_resps"]]
    assert len(set(values)) > 5, "all answers are equally likely, so nothing is compared"
    return found.metrics, values


@pytest.mark.parametrize("dropped", [(), (1, 2)])
@pytest.mark.parametrize("template", ["Question: {question}\nAnswer:", "{question}  "])
def test_both_scorers_give_the_same_log_likelihoods(
    folder: Path, tmp_path: Path, dropped: tuple[int, ...], template: str
) -> None:
    lines = items_file(tmp_path / "items.jsonl").read_text().splitlines()
    del lines[3]  # the item with equal choices, whose order is rounding
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    own, forward = tokenizer_of(folder), forward_of(folder)
    settings: dict[str, Any] = {"items": {"mine": str(tmp_path / "items.jsonl")}, "template": template}
    plain = answered(LocalFiles(**settings), own, forward, dropped)
    engine = answered(LocalFiles(**settings, scorer="engine"), own, forward, dropped)
    assert engine[0] == plain[0]
    assert engine[1] == pytest.approx(plain[1], abs=1e-4)


@pytest.mark.usefixtures("index")
def test_tasks_that_need_more_than_log_likelihoods_are_refused(folder: Path) -> None:
    assert Zeroshot(["normed"], scorer="engine").data(tokenizer_of(folder))
    with pytest.raises(InputError, match=r"more.*brier_score.*eval\.scorer=lm_eval"):
        Zeroshot(["more"], scorer="engine").data(tokenizer_of(folder))


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


@pytest.mark.parametrize("special", ["none", "bos"])
def test_both_scorers_agree_if_there_are_no_prompts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: str
) -> None:
    """Before an empty prompt, lm-eval puts the tokenizer's beginning or end of text, or token 0 (here `!`)."""
    index = promptless(tmp_path, [["The cat sees.", "The cat see."], ["!Go.", "!Goes."], ["a b", "b"]])
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: index)
    own, forward = copy.deepcopy(tokenizer_of(folder)), forward_of(folder)
    if special != "none":
        setattr(own, f"{special}_token", own.convert_ids_to_tokens(7))
    plain = answered(Zeroshot(["promptless"]), own, forward, (1,))
    engine = answered(Zeroshot(["promptless"], scorer="engine"), own, forward, (1,))
    assert engine[1] == pytest.approx(plain[1], abs=1e-4)
    (task,) = Zeroshot(["promptless"]).data(own).values()
    lengths = [len(row.input_ids) for row in task.rows]
    longest = max(lengths)
    assert task.too_long(longest - 1) == []
    assert task.too_long(longest - 2) == [lengths.index(longest) // 2]


def test_an_answer_that_cannot_be_scored_is_refused_with_the_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = promptless(tmp_path, [["The cat sees.", "The cat see."], ["It is.", ""]])
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: index)
    with pytest.raises(InputError, match="answer ''"):
        Zeroshot(["promptless"], scorer="engine").data(tokenizer_of(folder))

"""Generated tasks of lm-eval: answers equal those of lm-eval on an exported checkpoint; groups; refusals."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.metrics import pooled_sample_stderr
from lm_eval.tasks import TaskManager

from pruning.calibration.samples import Row, Samples
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.evaluation import lm_eval_tasks
from pruning.evaluation.generation import Generation
from pruning.evaluation.lm_eval_tasks import EvalTask, TaskGroup, Zeroshot
from pruning.evaluation.text_overlap import check_disjoint
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.sublayers import masked
from pruning.runs.prepare import Reader, check_evaluation
from tests.conftest import N_BLOCKS
from tests.evaluation.test_continuations import plain
from tests.helpers.evaluations import (
    forward_of,
    lm_eval_on,
    measured,
    samples_of,
    settings,
    tokenizer_of,
    written_tasks,
)

MASK = Mask(N_BLOCKS, (1, 4))


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_environment: None) -> TaskManager:
    """lm-eval's index: generated and multiple-choice tasks on local files, and some of lm-eval's own."""
    manager = written_tasks(tmp_path)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: manager)
    return manager


def asking(name: str, **options: Any) -> Generation:
    return Generation([name], prompts=0, **options)


def task_of(evaluation: Generation, folder: Path) -> Any:
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    return task


def test_an_answer_is_greedy_decoding_of_the_masked_model_without_a_cache(folder: Path) -> None:
    evaluation = asking("unfiltered", batch_size=1)
    own, module = tokenizer_of(folder), forward_of(folder).model.module
    files = measured(evaluation, folder, MASK).files
    with masked(module, MASK):
        for sample in samples_of(files):
            tokens = plain(module, own(sample["arguments"][0][0]).input_ids, 6)
            assert own.decode(tokens, skip_special_tokens=True).startswith(sample["resps"][0][0])
            assert sample["resps"][0][0]


def test_answers_are_those_of_lm_eval_on_the_exported_checkpoint(
    folder: Path, tmp_path: Path, index: TaskManager
) -> None:
    export(Request(settings(folder), MASK, tmp_path / "smaller"))
    expected = lm_eval_on(tmp_path / "smaller", "filtered", index)
    evaluation, forward = asking("filtered"), forward_of(folder)
    found = measured(evaluation, folder, MASK, forward)
    written = [sample["resps"] for sample in samples_of(found.files)]
    assert written == [sample["resps"] for sample in expected["samples"]["filtered"]]
    dense = measured(evaluation, folder, Mask(N_BLOCKS), forward)
    assert [sample["resps"] for sample in samples_of(dense.files)] != written
    scores = expected["results"]["filtered"]
    assert found.metrics["exact/filtered"] == scores["exact_match,last-word"]
    assert found.metrics["exact_first-letter/filtered"] == scores["exact_match,first-letter"]
    how = {"metric": "exact_match, last-word", "fewshot": 2, "items": 8, "of": 8, "limit": None}
    assert found.how == found.how | how
    assert found.how["generation"]["max_gen_toks"] == 6
    assert task_of(evaluation, folder).asked[0][0].count("Answer:") == 3, (
        "the task's own number of examples is two"
    )
    hits = json.loads(found.files["terms.json"])["hits"]
    assert hits == [s["exact_match"] for s in samples_of(found.files) if s["filter"] == "last-word"]
    assert len(hits) == 8


def test_examples_and_new_tokens_can_be_chosen_and_identify_the_data(folder: Path) -> None:
    own = tokenizer_of(folder)
    data = Generation(["unfiltered", "normed"], prompts=0, num_fewshot=1, max_new_tokens=3).data(own)
    written, chosen = data["exact/unfiltered"], data["acc/normed"]
    assert isinstance(written, EvalTask)
    assert isinstance(chosen, EvalTask)
    assert {prompt.count("Answer:") for prompt, _ in written.asked} == {2}
    assert {asked["max_gen_toks"] for _, asked in written.asked} == {written.new_tokens} == {3}
    assert chosen.requests[0]["asked"][0][0].count("\n\n") == 1
    assert measured(asking("normed", num_fewshot=1), folder, MASK).how["fewshot"] == 1
    (none,) = Zeroshot(["normed"]).data(own).values()
    assert none.sha256 != chosen.sha256
    changes: list[dict[str, int]] = [{}, {"limit": 2}, {"max_new_tokens": 7}, {"num_fewshot": 1}]
    assert len({task_of(asking("unfiltered", **one), folder).sha256 for one in changes}) == 4
    assert len({task_of(asking("unfiltered", batch_size=size), folder).sha256 for size in (2, 16)}) == 1


@pytest.mark.parametrize(("name", "kind"), [("writing", "exact"), ("both", "acc")])
def test_a_group_is_one_metric_over_all_items(folder: Path, name: str, kind: str) -> None:
    evaluation, metric = asking(name, num_fewshot=0), f"{kind}/{name}"
    group = evaluation.data(tokenizer_of(folder))[metric]
    assert isinstance(group, TaskGroup)
    forward = forward_of(folder)
    found = evaluation.measure(forward, metric, group, MASK)
    each = [evaluation.measure(forward, metric, member, MASK) for member in group.members]
    sizes = [one.how["items"] for one in each]
    mean = np.average([one.metrics[metric] for one in each], weights=sizes)
    assert found.metrics[metric] == pytest.approx(mean)
    errors = [one.metrics[f"{metric}/stderr"] for one in each]
    assert found.metrics[f"{metric}/stderr"] == pytest.approx(pooled_sample_stderr(errors, sizes))
    hits = [json.loads(one.files["terms.json"])["hits"] for one in each]
    assert json.loads(found.files["terms.json"])["hits"] == [*hits[0], *hits[1]]
    assert len(samples_of(found.files)) == sum(len(samples_of(one.files)) for one in each)
    names = [member.task.task_name for member in group.members]
    assert list(json.loads(found.files["lm_eval.json"])) == names
    assert (found.how["tasks"], found.how["items"]) == (2, sum(sizes))


@pytest.mark.parametrize("reading", ["apply_filters", "process_results"])
def test_a_catastrophic_regular_expression_is_interrupted(
    reading: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_tasks, "READING", 0.1)
    evaluation, before = asking("unfiltered"), signal.getsignal(signal.SIGALRM)
    ((metric, task),) = evaluation.data(tokenizer_of(folder)).items()
    assert isinstance(task, EvalTask)
    monkeypatch.setattr(task.task, reading, lambda *_: re.search("(a+)+b", "a" * 100))  # about 2^100 steps
    with pytest.raises(InputError, match=r"task unfiltered: .* 0\.1 s.* regex_pattern"):
        evaluation.measure(forward_of(folder), metric, task, MASK)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_question_must_leave_room_for_its_answer(folder: Path) -> None:
    own = tokenizer_of(folder)
    data = asking("unfiltered", max_new_tokens=20).data(own)
    (task,) = data.values()
    assert isinstance(task, EvalTask)
    longest = max(len(own(prompt).input_ids) for prompt, _ in task.asked)
    check_evaluation(data, Reader("tiny", longest + 20, own))
    assert task.too_long(longest + 20) == []
    assert task.too_long(longest + 19) != []
    with pytest.raises(InputError, match=r"20 tokens .*eval.max_new_tokens"):
        check_evaluation(data, Reader("tiny", 20, own))


def test_questions_in_the_calibration_text_are_refused(folder: Path, tmp_path: Path) -> None:
    own, path = tokenizer_of(folder), tmp_path / "questions.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]

    def shared(text: str) -> int:
        ids = tuple(own(text, add_special_tokens=False).input_ids)
        return task.shared(Samples("text", "mine.txt", (Row(ids, (1, len(ids))),), 0))

    data = asking("unfiltered", num_fewshot=1).data(own)
    (task,) = data.values()
    assert shared("Nothing of these questions is in this text.") == 0
    assert shared(f"Once asked: {records[2]['question']} And so on.") == 1
    ids = tuple(own(records[2]["question"], add_special_tokens=False).input_ids)
    with pytest.raises(InputError, match=r"exact/unfiltered .* 1 items"):
        check_disjoint(Samples("text", "mine.txt", (Row(ids, (1, len(ids))),), 0), data)

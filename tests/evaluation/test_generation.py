"""`eval=generation`: answers equal those of lm-eval on an exported checkpoint, and are scored as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.metrics import pooled_sample_stderr
from lm_eval.tasks import TaskManager

from pruning.calibration.samples import Row, Samples
from pruning.core.errors import InputError, UnreachableError
from pruning.core.mask import Mask
from pruning.evaluation import lm_eval_tasks
from pruning.evaluation.choices import EvalTask
from pruning.evaluation.generation import Generation
from pruning.evaluation.lm_eval_tasks import GenerationTask, TaskGroup, Zeroshot
from pruning.evaluation.text_overlap import check_disjoint
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.sublayers import masked
from pruning.runs.check_data import Reader, check_evaluation
from tests.conftest import N_BLOCKS
from tests.evaluation.test_generating import plain
from tests.helpers.evaluations import (
    forward_of,
    questions_file,
    samples_of,
    settings,
    tokenizer_of,
    written_tasks,
)

pytestmark = pytest.mark.usefixtures("without_environment")

MASK = Mask(N_BLOCKS, (1, 4))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    manager = written_tasks(tmp_path)
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: manager)
    return manager


def local(path: Path, **options: Any) -> Generation:
    return Generation(generate={"mine": str(path)}, prompts=0, **{"max_new_tokens": 6, **options})


def task_of(evaluation: Generation, folder: Path) -> GenerationTask:
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    assert isinstance(task, GenerationTask)
    return task


def answers(evaluation: Generation, folder: Path, mask: Mask = MASK) -> list[str]:
    """What the model writes on each question."""
    measured = evaluation.measure(forward_of(folder), "exact/mine", task_of(evaluation, folder), mask)
    return [sample["resps"][0][0] for sample in samples_of(measured.files)]


def with_records(path: Path, change: Any) -> Path:
    """A copy of a file of questions, in which `change(number, record)` has changed the records."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    copy = path.with_name("changed.jsonl")
    copy.write_text("".join(json.dumps(change(n, record)) + "\n" for n, record in enumerate(records)))
    return copy


def test_an_answer_is_greedy_decoding_of_the_masked_model_without_a_cache(
    folder: Path, tmp_path: Path
) -> None:
    evaluation = local(questions_file(tmp_path / "q.jsonl", 3), stop=["never this"], batch_size=1)
    own, module = tokenizer_of(folder), forward_of(folder).model.module
    written = answers(evaluation, folder)
    with masked(module, MASK):
        for request, text in zip(task_of(evaluation, folder).requests, written, strict=True):
            tokens = plain(module, own(request["asked"][0][0]).input_ids, 6)
            assert own.decode(tokens, skip_special_tokens=True).startswith(text)
            assert text


def test_answers_are_those_of_lm_eval_on_the_exported_checkpoint(folder: Path, tmp_path: Path) -> None:
    path = questions_file(tmp_path / "q.jsonl", 5)
    evaluation = local(path)
    export(Request(settings(folder), MASK, tmp_path / "smaller"))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 6},
    }
    expected = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "smaller"), "dtype": "float32"},
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        batch_size=16,
        device="cpu",
        bootstrap_iters=10,
    )
    assert answers(evaluation, folder) == [s["resps"][0][0] for s in expected["samples"]["mine"]]
    assert answers(evaluation, folder, Mask(N_BLOCKS)) != answers(evaluation, folder)


def test_exact_answers_and_patterns_are_counted(folder: Path, tmp_path: Path) -> None:
    path = questions_file(tmp_path / "q.jsonl", 8)
    written = answers(local(path), folder)
    assert all(text.strip() for text in written)

    def right(number: int, record: dict[str, Any]) -> dict[str, Any]:
        """Right for 0 to 3 by text, by one of several, by a pattern; 4 has a wrong pattern and the right text."""
        text = written[number]
        return record | {
            0: {"answer": text},
            1: {"answer": ["nothing", f"  {text} "]},
            2: {"pattern": "^" + "".join(f"\\u{ord(char):04x}" for char in text[:2])},
            3: {"answer": text},
            4: {"answer": text, "pattern": "^never this$"},
        }.get(number, {})

    evaluation = local(with_records(path, right))
    task = task_of(evaluation, folder)
    measured = evaluation.measure(forward_of(folder), "exact/mine", task, MASK)
    hits = [1.0] * 4 + [0.0] * 4
    assert measured.metrics["exact/mine"] == 0.5
    assert measured.metrics["exact/mine/stderr"] == pytest.approx(np.std(hits, ddof=1) / 8**0.5)
    assert json.loads(measured.files["terms.json"])["hits"] == hits
    assert [sample["exact_match"] for sample in samples_of(measured.files)] == hits
    how = {"items": 8, "of": 8, "metric": "exact_match, none", "source": str(tmp_path / "changed.jsonl")}
    assert measured.how == measured.how | how
    assert measured.how["generation"] == {"until": ["\n"], "do_sample": False, "max_gen_toks": 6}


def test_an_answer_ends_at_a_stop_text_or_after_the_most_tokens(folder: Path, tmp_path: Path) -> None:
    path = questions_file(tmp_path / "q.jsonl", 4)
    long = answers(local(path, stop=["never this"], max_new_tokens=12), folder)
    few = answers(local(path, stop=["never this"], max_new_tokens=3), folder)
    assert all(len(text) < len(more) for text, more in zip(few, long, strict=True))
    stop = long[0][3:5]
    short = answers(local(path, stop=[stop], max_new_tokens=12), folder)
    assert short == [text.partition(stop)[0] for text in long]
    assert short[0] != long[0]


def test_examples_come_from_the_beginning_of_the_file_in_lm_evals_format(
    folder: Path, tmp_path: Path
) -> None:
    path = questions_file(tmp_path / "q.jsonl", 5)
    evaluation = local(path, num_fewshot=2, limit=2)
    task = task_of(evaluation, folder)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    shown = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in records[:2])
    prompts = [arguments[0] for arguments in task.asked]
    assert prompts == [shown + f"Question: {r['question']}\nAnswer:" for r in records[2:4]]
    measured = evaluation.measure(forward_of(folder), "exact/mine", task, Mask(N_BLOCKS))
    assert (measured.how["items"], measured.how["of"], measured.how["limit"]) == (2, 3, 2)
    assert task.sha256 != task_of(local(path, limit=2), folder).sha256


def test_data_are_identified_by_prompts_answers_patterns_and_settings(folder: Path, tmp_path: Path) -> None:
    path = questions_file(tmp_path / "q.jsonl", 3)
    known = task_of(local(path), folder).sha256
    assert task_of(local(path, batch_size=2), folder).sha256 == known
    answered = with_records(path, lambda n, record: record | ({"answer": "other"} if n == 1 else {}))
    others = [local(answered), local(path, max_new_tokens=7), local(path, stop=["x"]), local(path, limit=2)]
    others += [local(path, template="Q: {question}")]
    digests = [task_of(one, folder).sha256 for one in others]
    patterned = with_records(path, lambda n, record: record | ({"pattern": "x"} if n == 1 else {}))
    digests.append(task_of(local(patterned), folder).sha256)
    assert len({known, *digests}) == 7


@pytest.mark.usefixtures("index")
def test_a_task_of_lm_eval_has_a_metric_for_each_filter(folder: Path) -> None:
    evaluation = Generation(["filtered"], prompts=0)
    data = evaluation.data(tokenizer_of(folder))
    task = data["exact/filtered"]
    assert isinstance(task, GenerationTask)
    assert task.asked[0][0].count("Answer:") == 3, "the task's own number of examples is two"
    measured = evaluation.measure(forward_of(folder), "exact/filtered", task, MASK)
    scores = json.loads(measured.files["lm_eval.json"])["results"]["filtered"]
    assert measured.metrics["exact/filtered"] == scores["exact_match,last-word"]
    assert measured.metrics["exact_first-letter/filtered"] == scores["exact_match,first-letter"]
    assert measured.how["metric"] == "exact_match, last-word"
    assert measured.how["fewshot"] == 2
    assert len(json.loads(measured.files["terms.json"])["hits"]) == 8
    assert len(samples_of(measured.files)) == 16


@pytest.mark.usefixtures("index")
def test_examples_and_new_tokens_can_be_chosen_for_tasks_of_lm_eval(folder: Path) -> None:
    own = tokenizer_of(folder)
    data = Generation(["unfiltered", "normed"], prompts=0, num_fewshot=1, max_new_tokens=3).data(own)
    written, chosen = data["exact/unfiltered"], data["acc/normed"]
    assert isinstance(written, GenerationTask)
    assert isinstance(chosen, EvalTask)
    assert {prompt.count("Answer:") for prompt, _ in written.asked} == {2}
    assert {asked["max_gen_toks"] for _, asked in written.asked} == {3}
    assert written.new_tokens == 3
    (first, *_) = (request["asked"][0][0] for request in chosen.requests)
    assert first.count("\n\n") == 1
    evaluation = Generation(["unfiltered", "normed"], prompts=0, num_fewshot=1, max_new_tokens=3)
    forward = forward_of(folder)
    measured = evaluation.measure(forward, "acc/normed", chosen, MASK)
    assert measured.how["fewshot"] == 1
    assert 0 <= measured.metrics["acc/normed"] <= 1
    (none,) = Zeroshot(["normed"]).data(own).values()
    assert none.fewshot == 0
    assert none.sha256 != chosen.sha256


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(("name", "kind"), [("writing", "exact"), ("both", "acc")])
def test_a_group_is_one_metric_over_all_items(folder: Path, name: str, kind: str) -> None:
    evaluation = Generation([name], prompts=0, num_fewshot=0)
    data = evaluation.data(tokenizer_of(folder))
    group, metric = data[f"{kind}/{name}"], f"{kind}/{name}"
    assert isinstance(group, TaskGroup)
    forward = forward_of(folder)
    measured = evaluation.measure(forward, metric, group, MASK)
    each = [evaluation.measure(forward, metric, member, MASK) for member in group.members]
    sizes = [one.how["items"] for one in each]
    assert measured.metrics[metric] == pytest.approx(
        np.average([one.metrics[metric] for one in each], weights=sizes)
    )
    errors = [one.metrics[f"{metric}/stderr"] for one in each]
    assert measured.metrics[f"{metric}/stderr"] == pytest.approx(pooled_sample_stderr(errors, sizes))
    hits = [json.loads(one.files["terms.json"])["hits"] for one in each]
    assert json.loads(measured.files["terms.json"])["hits"] == [*hits[0], *hits[1]]
    assert len(samples_of(measured.files)) == sum(len(samples_of(one.files)) for one in each)
    names = [member.task.task_name for member in group.members]
    assert list(json.loads(measured.files["lm_eval.json"])) == names
    assert measured.how["tasks"] == len(names)
    assert measured.how["items"] == sum(sizes)


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("filterd", {}, "'filterd' is not a task of lm-eval. Did you mean filtered"),
        ("mixed", {}, "some tasks of 'mixed' are generated and some multiple-choice"),
        (
            "other",
            {},
            "'other' is a multiple_choice task with the metrics brier_score: choose a generate_until",
        ),
        ("unfiltered", {"num_fewshot": 9}, "no prompts of 'unfiltered' with 9 examples can be made ("),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused(
    folder: Path, name: str, options: Any, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Generation([name], prompts=0, **options).data(tokenizer_of(folder))
    assert message in str(caught.value)


@pytest.mark.usefixtures("index")
def test_gsm8k_without_a_hub_is_refused_in_one_line() -> None:
    with pytest.raises(UnreachableError) as caught:
        Generation(["gsm8k"], prompts=0).data(None)
    message = str(caught.value)
    assert message.startswith("the data of task gsm8k cannot be read (")
    assert "'eval.generate={NAME: FILE}'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 0}, "eval=generation has nothing to measure"),
        ({"prompts": -1}, "eval.prompts=-1: give at least 1, or 0 for no continuations"),
        ({"prompt_tokens": 3}, "eval.prompt_tokens=3 is too short: give at least 8 tokens"),
        ({"continuation_tokens": 0}, "eval.continuation_tokens=0: give at least 1"),
        ({"seed": -1}, "eval.seed=-1 is negative"),
        ({"source": "embeded"}, "eval.source"),
        ({"source": "file"}, "eval.source=file needs a file: give eval.path=FILE"),
        ({"path": "x.txt"}, "eval.path=x.txt is used with eval.source=file only"),
        ({"num_fewshot": -1}, "eval.num_fewshot=-1: give at least 0, or null"),
        ({"max_new_tokens": 0}, "eval.max_new_tokens=0: give at least 1, or null"),
        ({"stop": ["\n", ""]}, "holds an empty text: every answer would stop at once"),
        ({"stop": [r"\n\n"]}, "contains a backslash and an n, which are no new line"),
        ({"template": "no field"}, "does not contain {question}"),
        ({"generate": "file.jsonl"}, "give names and paths, 'eval.generate={NAME: FILE}'"),
        ({"generate": {"mean": "x"}}, "eval.generate: 'mean' cannot name a metric"),
        ({"templates": {"mine": "{question}"}}, "name in eval.templates"),
        ({"generate": {"a": "x"}, "tasks": ["a"]}, "eval.tasks and eval.generate both have the name a"),
        ({"limit": 0}, "eval.limit=0: give at least 1"),
        ({"batch_size": 0}, "eval.batch_size=0: give at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Generation(**options)
    assert message in str(caught.value)


def test_too_many_prompts_are_refused_by_the_names_of_their_own_settings(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        Generation(prompts=1_000_000).data(tokenizer_of(folder))
    assert "lower eval.prompts or eval.prompt_tokens" in str(caught.value)


def test_files_that_cannot_be_asked_are_refused(folder: Path, tmp_path: Path) -> None:
    own, path = tokenizer_of(folder), questions_file(tmp_path / "q.jsonl", 3)
    with pytest.raises(InputError, match=r"eval.generate.mine=nowhere.jsonl: there is no such file"):
        local(Path("nowhere.jsonl")).data(own)
    with pytest.raises(InputError, match=r"has 3 questions, and eval.num_fewshot=3 of them are examples"):
        local(path, num_fewshot=3).data(own)
    bare = with_records(path, lambda _, record: {"question": record["question"], "pattern": "x"})
    with pytest.raises(InputError, match=r"question 1 is an example .* only a pattern: give it an 'answer'"):
        local(bare, num_fewshot=1).data(own)
    assert len(task_of(local(bare), folder).asked) == 3
    with pytest.raises(InputError, match=r"contains \{choices\}, but only \{question\} is filled in"):
        local(path, template="{question} {choices}").data(own)


def test_a_question_must_leave_room_for_its_answer(folder: Path, tmp_path: Path) -> None:
    own = tokenizer_of(folder)
    data = local(questions_file(tmp_path / "q.jsonl", 3), max_new_tokens=20).data(own)
    longest = max(len(own(prompt).input_ids) for prompt, _ in data["exact/mine"].asked)  # type: ignore[attr-defined]
    check_evaluation(data, Reader("tiny", longest + 20, own))
    with pytest.raises(InputError, match=r"items, .* are longer with 20 new tokens than the \d+ tokens"):
        check_evaluation(data, Reader("tiny", longest + 19, own))
    with pytest.raises(InputError, match=r"up to 20 tokens are generated.* lower eval.max_new_tokens"):
        check_evaluation(data, Reader("tiny", 20, own))


def test_questions_in_the_calibration_text_are_refused(folder: Path, tmp_path: Path) -> None:
    own, path = tokenizer_of(folder), questions_file(tmp_path / "q.jsonl", 4)
    records = [json.loads(line) for line in path.read_text().splitlines()]

    def calibration(text: str) -> Samples:
        ids = tuple(own(text, add_special_tokens=False).input_ids)
        return Samples("text", "mine.txt", (Row(ids, (1, len(ids))),), 0)

    data = local(path, num_fewshot=1).data(own)
    check_disjoint(calibration("Nothing of these questions is in this text."), data)
    check_disjoint(calibration(f"An example: {records[0]['question']}"), data)
    with pytest.raises(InputError, match=r"the data of exact/mine .* share 1 items"):
        check_disjoint(calibration(f"Once asked: {records[2]['question']} And so on."), data)


def test_a_short_question_is_found_only_with_one_of_its_answers(folder: Path, tmp_path: Path) -> None:
    def short(number: int, _: dict[str, Any]) -> dict[str, Any]:
        return {"question": f"Who wrote poem number {number}?", "answer": [f"Ann {number}", f"Bob {number}"]}

    path = with_records(questions_file(tmp_path / "q.jsonl", 3), short)
    own = tokenizer_of(folder)
    (task,) = local(path).data(own).values()

    def shared(text: str) -> int:
        ids = tuple(own(text, add_special_tokens=False).input_ids)
        return task.shared(Samples("text", "mine.txt", (Row(ids, (1, len(ids))),), 0))

    assert shared("Who wrote poem number 1? We do not say.") == 0
    assert shared("Who wrote poem number 1? Bob 1, they say.") == 1

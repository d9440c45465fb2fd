"""Local items and lm-eval's tasks: numbers and answers equal those of lm-eval on an exported checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.tasks import TaskManager

from pruning.calibration.items import Items
from pruning.core.errors import InputError, UnreachableError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.evaluation import choices, lm_eval_tasks
from pruning.evaluation.heldout import LocalFiles
from pruning.evaluation.lm_eval_tasks import Zeroshot
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.model import Model
from pruning.models.sublayers import masked
from pruning.runs.measurements import Evaluator
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import (
    forward_of,
    items_file,
    own_tasks,
    samples_of,
    settings,
    shared_data,
    tokenizer_of,
)

pytestmark = pytest.mark.usefixtures("without_environment")

DROPPED = (1, 4)


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
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        batch_size=16,
        device="cpu",
        bootstrap_iters=10,
        **options,
    )


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
    evaluation = LocalFiles(items={"mine": str(path)}, limit=limit)
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    measured = evaluation.measure(forward_of(folder), "acc/mine", task, Mask(N_BLOCKS, DROPPED))
    export(Request(settings(folder), Mask(N_BLOCKS, DROPPED), tmp_path / "smaller"))
    expected = plain(tmp_path / "smaller", path, limit=limit)
    scores = expected["results"]["mine"]
    assert measured.metrics == {
        "acc/mine": scores["acc_norm,none"],
        "acc/mine/stderr": scores["acc_norm_stderr,none"],
        "acc_plain/mine": scores["acc,none"],
        "acc_plain/mine/stderr": scores["acc_stderr,none"],
    }
    samples = samples_of(measured.files)
    assert len(samples) == (limit or 12)
    assert answers(samples) == answers(expected["samples"]["mine"])
    assert json.loads(measured.files["lm_eval.json"])["results"]["mine"]["acc,none"] == scores["acc,none"]
    how = {"items": limit or 12, "of": 12, "limit": limit, "metric": "acc_norm"}
    assert measured.how | how == measured.how


def test_a_pruned_model_is_never_given_the_dense_one_s_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, caches = lm_eval.simple_evaluate, []

    def noting(*positional: Any, **named: Any) -> Any:
        caches.append((named.get("use_cache"), named.get("cache_requests", False)))
        return original(*positional, **named)

    monkeypatch.setattr(lm_eval, "simple_evaluate", noting)
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    forward = forward_of(folder)
    masks = [Mask(N_BLOCKS), Mask(N_BLOCKS, DROPPED), Mask(N_BLOCKS), Mask(N_BLOCKS, (0,))]
    results = [samples_of(evaluation.measure(forward, "acc/mine", task, mask).files) for mask in masks]
    logliks = [[sample["resps"] for sample in samples] for samples in results]
    assert logliks[0] == logliks[2]
    assert len({json.dumps(values) for values in logliks}) == 3
    assert caches == [(None, False)] * 4


def test_a_compensated_mask_is_asked_with_its_factors(folder: Path, tmp_path: Path) -> None:
    path = items_file(tmp_path / "items.jsonl", 4)
    evaluation, forward = LocalFiles(items={"mine": str(path)}), forward_of(folder)
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    forward.scales = (1.0, 1.7, 1.0, 1.0, 0.6, 1.0)
    measured = evaluation.measure(forward, "acc/mine", task, Mask(N_BLOCKS, DROPPED))
    samples = Items("file", 3, 0, str(items_file(tmp_path / "distinct.jsonl", 3))).draw(tokenizer_of(folder))
    ((_, engine, _),) = forward.loglikelihoods(samples.rows, [Mask(N_BLOCKS, DROPPED)])
    asked = [loglik[0][0] for sample in samples_of(measured.files)[:3] for loglik in sample["resps"]]
    assert asked == pytest.approx(engine, rel=1e-4)
    forward.scales = None
    assert evaluation.measure(forward, "acc/mine", task, Mask(N_BLOCKS, DROPPED)).files != measured.files


def test_the_answers_to_single_items_are_kept(folder: Path, tmp_path: Path) -> None:
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    task = evaluation.data(tokenizer_of(folder))["acc/mine"]
    measured = evaluation.measure(forward_of(folder), "acc/mine", task, Mask(N_BLOCKS, DROPPED))
    terms = json.loads(measured.files["terms.json"])
    assert sum(terms["hits"]) / len(terms["hits"]) == pytest.approx(measured.metrics["acc/mine"])
    asked = [[choice[0][0] for choice in sample["resps"]] for sample in samples_of(measured.files)]
    assert len(asked) == len(terms["hits"])
    for kept, sent in zip(terms["loglikelihoods"], asked, strict=True):
        assert kept == pytest.approx(list(map(float, sent)), rel=1e-6)


def test_results_and_samples_are_kept_beside_the_measurement(folder: Path, tmp_path: Path) -> None:
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    data = evaluation.data(tokenizer_of(folder))
    evaluator = Evaluator(evaluation, data, forward_of(folder), {"acc/mine": tmp_path / "kept"})
    measured = evaluator(Mask(N_BLOCKS, DROPPED))
    names = sorted(path.name.partition(".")[2] for path in (tmp_path / "kept").iterdir())
    assert names == ["json", "lm_eval.json", "samples.jsonl.gz", "terms.json"]
    assert evaluator(Mask(N_BLOCKS, DROPPED)) == measured
    assert "acc/mean" not in measured.metrics, "one file has no mean"


def test_data_are_identified_by_their_requests_not_by_the_file(folder: Path, tmp_path: Path) -> None:
    folder_tokenizer = tokenizer_of(folder)

    def digest(path: Path, **options: Any) -> str:
        return LocalFiles(items={"mine": str(path)}, **options).data(folder_tokenizer)["acc/mine"].sha256

    first = digest(items_file(tmp_path / "a.jsonl"))
    assert digest(items_file(tmp_path / "b.jsonl")) == first
    others = [digest(tmp_path / "a.jsonl", limit=5), digest(tmp_path / "a.jsonl", template="{question}")]
    others.append(digest(items_file(tmp_path / "c.jsonl", seed=1)))
    assert len({first, *others}) == 4


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "q", "choices": ["a"], "answer": 0}, "'choices' must list at least two texts"),
        ({"question": "q", "choices": ["a", " "], "answer": 0}, "none of them empty"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "an index from 0 to 1, not 2"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "an index from 0 to 1, not True"),
        ({"choices": ["a", "b"], "answer": 1}, "the field 'question' must be text"),
        (["q"], "an item must be a JSON object, not ['q']"),
    ],
)
def test_a_malformed_item_is_named_by_its_line(tmp_path: Path, record: Any, message: str) -> None:
    (tmp_path / "items.jsonl").write_text("\n" + json.dumps(record))
    with pytest.raises(InputError) as caught:
        LocalFiles(items={"mine": str(tmp_path / "items.jsonl")}).data(None)
    assert "items.jsonl, line 2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "eval=local needs a file"),
        ({"items": "x.jsonl"}, "eval.items=x.jsonl: give names and paths, 'eval.items={NAME: FILE}'"),
        ({"texts": {"a": 3}}, "eval.texts={'a': 3}: give names and paths"),
        ({"texts": {"mean": "x.txt"}}, "'mean' cannot name a metric"),
        ({"items": {"a": "x"}, "template": "Q:"}, "eval.template='Q:' does not contain {question}"),
        ({"items": {"a": "x"}, "batch_size": 0}, "eval.batch_size=0"),
        ({"items": {"a": "x"}, "limit": 0}, "eval.limit=0"),
        ({"texts": {"a": "x"}, "window": 2}, "eval.window=2 is too short"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        LocalFiles(**options)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eval.items.mine=nowhere.jsonl: there is no such file"):
        LocalFiles(items={"mine": "nowhere.jsonl"}).data(None)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match=r"blank.jsonl: the file contains no items"):
        LocalFiles(items={"mine": str(tmp_path / "blank.jsonl")}).data(None)


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
    measured = Evaluator(evaluation, data, forward_of(folder), folders)(Mask(N_BLOCKS, DROPPED))
    for name, metric in (("normed", "acc_norm"), ("plain", "acc")):
        (path,) = (tmp_path / "acc" / name).glob("*.lm_eval.json")
        scores = json.loads(path.read_text())["results"][name]
        assert measured.metrics[f"acc/{name}"] == scores[f"{metric},none"]
        assert measured.metrics[f"acc/{name}/stderr"] == scores[f"{metric}_stderr,none"]
    mean = (measured.metrics["acc/normed"] + measured.metrics["acc/plain"]) / 2
    assert measured.metrics["acc/mean"] == pytest.approx(mean)
    assert measured.how["acc/plain"]["limit"] == 7


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("normd", "'normd' is not a task of lm-eval. Did you mean normed?"),
        ("both", "'both' is a group of tasks: name its tasks one by one"),
        ("ai2_arc", "'ai2_arc' is a group of tasks"),
        ("other", "'other' has no accuracy, only brier_score: choose a task that has acc_norm or acc"),
    ],
)
def test_a_task_that_cannot_be_reported_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Zeroshot([name]).data(None)
    assert message in str(caught.value)


@pytest.mark.usefixtures("index")
def test_a_task_whose_data_cannot_be_reached_is_reported_in_one_line() -> None:
    with pytest.raises(UnreachableError) as caught:
        Zeroshot(["arc_easy"]).data(None)
    assert str(caught.value).startswith("the data of task arc_easy cannot be read (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import absent_package.parts",
            "'needy' needs the package absent_package: pip install absent_package",
        ),
        (
            "raise ImportError('sums need `a`:\\npip install a[sums]')",
            "'needy' cannot be loaded (sums need `a`: pip install a[sums]): install the packages",
        ),
    ],
)
def test_a_task_that_needs_an_absent_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "needs.py").write_text(f"{code}\n\n\ndef texts(data):\n    return data\n")
    (tmp_path / "needy.yaml").write_text(
        "task: needy\ndataset_path: json\ntest_split: test\nprocess_docs: !function needs.texts\n"
    )
    own = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr("pruning.evaluation.lm_eval_tasks.manager", lambda: own)
    with pytest.raises(InputError) as caught:
        Zeroshot(["needy"]).data(None)
    assert message in str(caught.value)


def test_the_paper_s_tasks_are_the_default_and_lm_eval_has_them() -> None:
    text = (Path(__file__).parents[2] / "conf" / "eval" / "zeroshot.yaml").read_text()
    names = yaml.safe_load(text)["tasks"]
    assert names == ["hellaswag", "winogrande", "arc_easy", "arc_challenge", "piqa", "boolq"]
    folders = ("hellaswag", "winogrande", "arc", "piqa", "super_glue/boolq")
    builtin = [str(Path(lm_eval.__file__).parent / "tasks" / folder) for folder in folders]
    assert set(names) <= set(TaskManager(include_path=builtin, include_defaults=False).all_subtasks)


@pytest.mark.slow
@pytest.mark.model
def test_answers_on_real_items_are_those_of_lm_eval_on_the_exported_checkpoint(tmp_path: Path) -> None:
    paths = {name: shared_data(f"{name}.jsonl") for name in ("arc_easy", "piqa")}
    wanted = Model("smollm2", "packaged", "smollm2", dtype="float32")
    mask = Mask(30, (12, 17))
    evaluation = LocalFiles(items={name: str(path) for name, path in paths.items()}, limit=6)
    data = evaluation.data(wanted.tokenizer)
    forward = Forward(wanted.load())
    measured = {name: evaluation.measure(forward, name, task, mask) for name, task in data.items()}
    export(Request(wanted, mask, tmp_path / "smaller", verify=False))
    for name, path in paths.items():
        expected = plain(tmp_path / "smaller", path, limit=6)
        assert answers(samples_of(measured[f"acc/{name}"].files)) == answers(expected["samples"]["mine"])


def test_lm_eval_leaves_model_tokenizer_and_its_logger_as_they_were(folder: Path, tmp_path: Path) -> None:
    import logging

    forward, folder_tokenizer = forward_of(folder), tokenizer_of(folder)
    evaluation = LocalFiles(items={"mine": str(items_file(tmp_path / "items.jsonl"))})
    (task,) = evaluation.data(folder_tokenizer).values()
    before = [dict(vars(module)) for module in forward.model.module.modules()]
    with masked(forward.model.module, Mask(N_BLOCKS)):
        evaluation.measure(forward, "acc/mine", task, Mask(N_BLOCKS, DROPPED))
    assert [dict(vars(module)) for module in forward.model.module.modules()] == before
    assert folder_tokenizer.pad_token_id is None
    assert logging.getLogger("lm_eval").level == logging.NOTSET
    assert choices.METRICS == ("acc_norm", "acc")

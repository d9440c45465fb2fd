"""Items, templates, texts and journals that once gave wrong numbers without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MptConfig, Phi3Config

from pruning.calibration.item_files import FORMAT, Item, read_items
from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.core.errors import DamagedError, InputError, RequestError
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score
from pruning.engine.forward import Forward
from pruning.evaluation.heldout import LocalFiles, item_accuracy
from pruning.models.handle import Model
from pruning.runs.measurements import averaged
from pruning.runs.prepare import Reader, check_calibration, check_evaluation
from pruning.search.journal import Journal, Store, claim
from tests.conftest import N_BLOCKS, Command
from tests.helpers.evaluations import (
    forward_of,
    items_file,
    lm_eval_on,
    samples_of,
    shared_data,
    tokenizer_of,
    with_end,
)
from tests.helpers.tokens import Numbers

SNAIL = {"question": "Which has a house?", "choices": ["a horse", "a snail"], "answer": 1}
ITEM = Item("Which has a house?", ("a horse", "a snail"), 1)


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace lm-eval's description of the machine, which takes a second per call."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: results.update(lm_eval_version="0"))


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_end(model_folder, tmp_path_factory.mktemp("complete") / "model")


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def task_of(path: Path, tokenizer: Any, **options: Any) -> Any:
    (task,) = LocalFiles(items={"mine": str(path)}, **options).data(tokenizer).values()
    return task


ARC = {"text": list(ITEM.choices), "label": ["1", "2"]}
TRUE_OR_FALSE = "Dry? Answer format: true/false"
FORMS = {
    "question, choices, answer": (SNAIL, ITEM),
    "the answer's text": (SNAIL | {"answer": "a snail"}, ITEM),
    "the answer's letter": (SNAIL | {"answer": "B"}, ITEM),
    "query, choices, gold": ({"query": ITEM.question, "choices": list(ITEM.choices), "gold": 1}, ITEM),
    "ARC": ({"question": ITEM.question, "choices": ARC, "answerKey": "2"}, ITEM),
    "Commonsense 170k": (
        {"instruction": TRUE_OR_FALSE, "answer": "false", "input": ""},
        Item(TRUE_OR_FALSE, ("true", "false"), 1),
    ),
}


@pytest.mark.parametrize(("record", "item"), FORMS.values(), ids=FORMS)
def test_items_in_common_forms_are_read_as_they_are(tmp_path: Path, record: Any, item: Item) -> None:
    path = lines(tmp_path / "items.json", record, record)
    assert read_items(path) == [item, item]
    for indent in (None, 2):
        path.write_text(json.dumps([record, record], indent=indent))
        assert read_items(path) == [item, item]


# An item, and what the refusal names.
UNREADABLE = [
    ('{"question": "q"}', "'choices'"),
    ("[1, 2]", "not 1"),
    ('[{"question": ', "JSON"),
    ("[" * 100_000, "JSON"),
    (json.dumps(SNAIL | {"answer": "snail"}), "'snail'"),
    (json.dumps(SNAIL | {"choices": ["B", "A"], "answer": "A"}), "'A'"),  # the letter or the text?
    (json.dumps(SNAIL | {"answer": "1"}), "'1'"),  # counted from 0 or from 1?
    (json.dumps(SNAIL | {"question": " \n"}), "'question'"),
    (json.dumps(SNAIL | {"question": "\ud800"}), "Unicode"),
    (json.dumps({"question": "q", "answer": "a"}), "'choices'"),
    ("[[]]", r"[]"),
    *((json.dumps(SNAIL | {"choices": choices}), "'choices'") for choices in (["a"], "ab", ["a", ""])),
    *((json.dumps(SNAIL | {"answer": wrong}), f"{wrong!r}") for wrong in (2, -1, "A cup", True, None)),
]


@pytest.mark.parametrize(("text", "named"), UNREADABLE)
def test_an_unreadable_item_shows_the_whole_format(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_items(tmp_path / "items.json")
    said, _, after = str(caught.value).partition(FORMAT)
    assert named in said
    assert after == "", "the message ends with the format"


def test_a_malformed_item_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: "):
        read_items(lines(tmp_path / "a.jsonl", SNAIL, SNAIL | {"choices": []}, SNAIL))


QUESTIONS = ["12", "2020-01-01", "{{7*7}}", "[1, 2]", "plain", "{% raw %}", "None", "0x10", "answer"]


@pytest.mark.parametrize("template", ["{question}", "{question}\n", "Q: {question}"])
@pytest.mark.parametrize("first", ["12", "plain", "None"])  # a library may guess a type from the first line
def test_every_question_is_asked_as_it_is(folder: Path, tmp_path: Path, template: str, first: str) -> None:
    questions = [first, *QUESTIONS]
    path = lines(tmp_path / "items.jsonl", *(SNAIL | {"question": question} for question in questions))
    task = task_of(path, tokenizer_of(folder), template=template)
    filled = [template.replace("{question}", question) for question in questions]
    assert task.asked == [(text, choice) for text in filled for choice in (" a horse", " a snail")]


def test_requests_that_differ_from_the_items_are_never_sent(folder: Path, tmp_path: Path) -> None:
    path = items_file(tmp_path / "items.jsonl")
    evaluation = LocalFiles(items={"mine": str(path)})
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    task.task.set_config("doc_to_text", "question")  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match=r"constraints\.txt"):
        evaluation.measure(forward_of(folder), "acc/mine", task, Mask(N_BLOCKS))


@pytest.mark.parametrize("template", ["{question} {choices}", "{% x %}{question}", r"{question}\nAnswer:"])
def test_a_template_with_other_fields_or_a_backslash_and_an_n_is_refused(
    tmp_path: Path, template: str
) -> None:
    path = str(lines(tmp_path / "items.jsonl", SNAIL))
    with pytest.raises(InputError, match=r"eval\.template"):
        LocalFiles(items={"mine": path}, template=template).data(None)
    with pytest.raises(InputError, match=r"eval\.templates\.mine"):
        LocalFiles(items={"mine": path}, templates={"mine": template}).data(None)
    with pytest.raises(InputError, match=r"calibration\.template"):
        Items("file", 1, 0, path, template=template).draw(Numbers())


@pytest.mark.parametrize(
    ("words", "context"),
    [
        (['eval.template="Question: {question}\nAnswer:"'], "Question: {}\nAnswer:"),
        (['eval.templates={mine: "{question}, yes or no?\nA:"}'], "{}, yes or no?\nA:"),
        (["eval.template='\"{question}\" (a=b)'"], '"{}" (a=b)'),
    ],
)
def test_a_template_on_the_command_line_arrives_as_it_is_written(
    launch: Command, tmp_path: Path, words: list[str], context: str
) -> None:
    lines(tmp_path / "items.jsonl", SNAIL, SNAIL | {"question": "Which is fast?"})
    ended = launch("k=1", "algo=one_shot", "eval=local", "eval.items={mine: items.jsonl}", *words)
    assert ended.status == 0, ended.err
    (path,) = {path.parent for path in ended.results.rglob("*.samples.jsonl.gz")}
    (sample, _) = samples_of({"samples.jsonl.gz": next(path.glob("*.gz")).read_bytes()})
    assert sample["arguments"][0][0] == context.format(ITEM.question)


def windows(*texts: tuple[int, ...]) -> Samples:
    return Samples("text", "t", tuple(Row(ids, (1, len(ids))) for ids in texts), 0)


class Blank(Numbers):
    """A tokenizer whose tokens below 10 are white space."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(" " if i < 10 else "x" for i in ids)


@pytest.mark.parametrize(
    ("samples", "named"),
    [
        (windows((1, 2), (3, 4)), r"\(t\) .*space"),
        (windows((11, 12), (11, 12)), "2 windows"),
        (windows((11, 12, 13, 14, 15)), r"5 tokens, .* 4: .*calibration\.length"),
    ],
)
def test_windows_that_mean_nothing_are_refused(samples: Samples, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_calibration(samples, Reader("tiny", 4, Blank()))


LONG = SNAIL | {"question": "word " * 3000}
WRONG = [([SNAIL] * 10, "10 items"), ([SNAIL, LONG], "1 of 2")]  # items, and what their refusal names


@pytest.mark.parametrize(("records", "named"), WRONG)
def test_items_that_give_wrong_numbers_are_refused_before_the_search(
    launch: Command, folder: Path, tmp_path: Path, records: list[Any], named: str
) -> None:
    path = lines(tmp_path / "items.jsonl", *records)
    ended = launch("k=1", "algo=one_shot", "eval=local", "eval.items={mine: items.jsonl}")
    assert (ended.status, ended.all()) == (2, [])
    assert named in ended.err
    tokenizer = tokenizer_of(folder)
    samples = Items("file", len(records), 0, str(path)).draw(tokenizer)
    with pytest.raises(InputError, match=named):
        check_calibration(samples, Reader("tiny", 2048, tokenizer))


def test_rows_on_both_sides_of_a_change_of_longrope_are_refused(folder: Path) -> None:
    """The loss of a row would depend on the other rows of its batch."""
    factors = {"rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", **factors}
    lengths = {"max_position_embeddings": 128, "original_max_position_embeddings": 16}
    config = Phi3Config(hidden_size=32, num_attention_heads=4, rope_parameters=rope, **lengths)
    reader = Reader.of("phi", config, tokenizer_of(folder))
    assert (reader.most, reader.change) == (128, 16)

    def rows(*lengths: int) -> Samples:
        return windows(*(tuple(range(60 + i, 60 + i + n)) for i, n in enumerate(lengths)))

    assert Reader.of("mpt", MptConfig(max_seq_len=64), reader.tokenizer).most == 64
    for alike in ((12, 16), (17, 40)):
        check_calibration(rows(*alike), reader)
    with pytest.raises(InputError, match=r"16 tokens .*calibration\.length"):
        check_calibration(rows(16, 17), reader)


def test_repeated_items_are_recorded_and_one_item_has_no_standard_error(folder: Path, tmp_path: Path) -> None:
    twice = lines(tmp_path / "a.jsonl", SNAIL, SNAIL, SNAIL | {"question": "Which is fast?"})
    one = lines(tmp_path / "b.jsonl", SNAIL)
    evaluation, tokenizer = LocalFiles(items={"twice": str(twice), "one": str(one)}), tokenizer_of(folder)
    data = evaluation.data(tokenizer)
    check_evaluation(data, Reader("tiny", 2048, tokenizer), evaluation)
    forward, dense = forward_of(folder), Mask(N_BLOCKS)
    first, second = (evaluation.measure(forward, name, task, dense) for name, task in data.items())
    assert first.how["repeated"] == 1
    assert second.metrics.keys() == {"acc/one", "acc_plain/one"}
    assert averaged({**first.metrics, **second.metrics}).keys() == {"acc/mean"}
    drawn = Items("file", 1, 0, str(one)).draw(tokenizer)
    assert item_accuracy("acc/x", forward, drawn, dense).metrics.keys() == {"acc/x"}


def test_no_batch_mixes_tasks_so_bfloat16_rounds_as_in_lm_eval(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of very different lengths: together in a batch, the shorter items would get another padding."""
    short = lines(tmp_path / "short.jsonl", *(SNAIL | {"question": f"Is it {n}?"} for n in range(3)))
    long = lines(tmp_path / "long.jsonl", *(SNAIL | {"question": f"Is it {n}? " * 9} for n in range(3)))
    model = Model("tiny", "local", str(folder), dtype="bfloat16")
    evaluation = LocalFiles(items={"short": str(short), "long": str(long)}, batch_size=8)
    data = evaluation.data(tokenizer_of(folder))
    forward = Forward(model.load())
    assert forward.model.module.dtype == torch.bfloat16
    for name, task in data.items():
        files = evaluation.measure(forward, name, task, Mask(N_BLOCKS)).files
        alone = lm_eval_on(folder, task.task, dtype="bfloat16", batch_size=8)  # type: ignore[attr-defined]
        expected = [sample["resps"] for sample in alone["samples"][name.partition("/")[2]]]
        assert [s["resps"] for s in samples_of(files)] == json.loads(json.dumps(expected))


def score(loss: float, *terms: float, of: int | None = None) -> Score:
    return Score(Mask(N_BLOCKS, (1,)), loss, terms, 0.5, of)


TWO = Estimate((1.0, 3.0), (0, 0))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (score(1.5, 1.0, 2.0), r"line 1 .*1\.5.*1\.75"),
        (score(1.0, 1.0, 1.0, 1.0), r"line 1 .* 3 .* 3 .* 2\."),
        (score(2.0, 1.0, of=2), "line 1 .*2.*1"),
    ],
)
def test_a_journal_line_that_contradicts_itself_is_damaged(
    tmp_path: Path, line: Score, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cell" / "trace.jsonl"
    path.parent.mkdir()
    claim(tmp_path, "key", "cell")
    path.write_text(json.dumps(line.to_line()) + "\n")
    with pytest.raises(DamagedError, match=named):
        Journal.open(path, N_BLOCKS, TWO)
    store = Store(tmp_path, "key", "other", N_BLOCKS, estimate=TWO)
    assert store.find([line.mask]) == []
    assert f"{path}: " in caplog.text


FILES = ["arc_easy.jsonl", "arc_challenge.jsonl", "piqa.jsonl", "boolq.jsonl", "commonsense170k_part.json"]


@pytest.mark.parametrize("name", FILES)
def test_every_real_file_of_items_is_read(name: str) -> None:
    items = read_items(shared_data(name), equal_choices=True)
    assert len(items) > 1000
    assert all(item.question and len(item.choices) >= 2 for item in items)


def test_the_error_of_a_single_calibration_sample_is_not_stated(launch: Command) -> None:
    from analysis.data.load import row_of

    ended = launch("k=1", "algo=one_shot", "calibration.samples=1")
    result = ended.result()
    assert result["calibration"]["standard_error"] is None
    assert result["margins"]["runner_up"]["standard_error"] is None
    assert row_of(ended.results / result["cell"])["status"] == "done"

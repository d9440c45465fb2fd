"""Items, templates, texts and journals that once gave wrong numbers without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from transformers import MptConfig, Phi3Config

from pruning.calibration.item_files import FORMAT, Item, read_items
from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.core.errors import DamagedError, InputError, RequestError
from pruning.core.mask import Mask
from pruning.core.records import same_settings
from pruning.core.scoring import Estimate, Score
from pruning.engine.forward import Forward
from pruning.evaluation.choices import check_equal
from pruning.evaluation.heldout import LocalFiles, item_accuracy
from pruning.evaluation.text_overlap import overlaps
from pruning.models.model import Model
from pruning.runs.check_data import Reader, check_calibration, check_evaluation
from pruning.runs.measurements import averaged
from pruning.search.journal import Journal, Store
from tests.conftest import N_BLOCKS, Command
from tests.helpers.evaluations import forward_of, items_file, samples_of, shared_data, tokenizer_of, with_end
from tests.helpers.tokens import Numbers

SNAIL = {"question": "Which has a house?", "choices": ["a horse", "a snail"], "answer": 1}
ITEM = Item("Which has a house?", ("a horse", "a snail"), 1)
SENTENCES = ["The snail hides since the horse", "The horse hides since the snail"]
WINOGRANDE = {"context_options": SENTENCES, "continuation": "is loud.", "gold": 0}


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


FORMS = {
    "question, choices, answer": (SNAIL, ITEM),
    "the answer's text": (SNAIL | {"answer": "a snail"}, ITEM),
    "the answer's letter": (SNAIL | {"answer": "B"}, ITEM),
    "query, choices, gold": ({"query": ITEM.question, "choices": list(ITEM.choices), "gold": 1}, ITEM),
    "ARC": (
        {
            "question": ITEM.question,
            "choices": {"text": list(ITEM.choices), "label": ["1", "2"]},
            "answerKey": "2",
        },
        ITEM,
    ),
    "Winogrande": (WINOGRANDE, Item("", tuple(SENTENCES), 0, "is loud.")),
    "Commonsense 170k": (
        {"instruction": "Dry? Answer format: true/false", "answer": "false", "input": ""},
        Item("Dry? Answer format: true/false", ("true", "false"), 1),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["lines", "array", "indented array"])
def test_items_in_common_forms_are_read_as_they_are(tmp_path: Path, form: str, layout: str) -> None:
    record, item = FORMS[form]
    path = lines(tmp_path / "items.json", record, record)
    if layout != "lines":
        path.write_text(json.dumps([record, record], indent=2 if layout == "indented array" else None))
    assert read_items(path) == [item, item]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q"}', "'choices' must list at least two texts, not None"),
        ("[1, 2]", "item 1: an item must be a JSON object, not 1"),
        ('[{"question": ', "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        (json.dumps(SNAIL | {"answer": "snail"}), "not 'snail'; the letter or the exact text"),
        (json.dumps(SNAIL | {"choices": ["B", "A"], "answer": "A"}), "not 'A'"),  # the letter or the text?
        (json.dumps(SNAIL | {"answer": "1"}), "not '1'"),  # counted from 0 or from 1?
        (json.dumps(SNAIL | {"question": " \n"}), "the field 'question' holds nothing but white space"),
        (json.dumps(SNAIL | {"question": "\ud800"}), "no Unicode text"),
        (json.dumps(WINOGRANDE | {"continuation": ""}), "'continuation' holds nothing but white space"),
        (json.dumps({"question": "q", "answer": "a"}), "'choices' must list at least two texts"),
    ],
)
def test_an_unreadable_item_shows_the_whole_format(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_items(tmp_path / "items.json")
    assert message in str(caught.value)
    assert str(caught.value).endswith(FORMAT)


def test_a_file_does_not_mix_questions_and_contexts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="put the two forms into two files"):
        read_items(lines(tmp_path / "items.jsonl", SNAIL, WINOGRANDE))


QUESTIONS = ["12", "2020-01-01", "{{7*7}}", "[1, 2]", "plain", "{% raw %}", "None", "0x10", "answer"]


@pytest.mark.parametrize("first", QUESTIONS)
@pytest.mark.parametrize("template", ["{question}", "{question}\n", "Q: {question}"])
def test_every_question_is_asked_as_it_is(folder: Path, tmp_path: Path, first: str, template: str) -> None:
    records = [SNAIL | {"question": question} for question in (first, *QUESTIONS)]
    task = task_of(
        lines(tmp_path / "items.jsonl", *records), tokenizer_of(folder), limit=2, template=template
    )
    filled = template.replace("{question}", first)
    assert task.asked[:2] == [(filled, " a horse"), (filled, " a snail")]


def test_requests_that_differ_from_the_items_are_never_sent(folder: Path, tmp_path: Path) -> None:
    path = items_file(tmp_path / "items.jsonl")
    evaluation = LocalFiles(items={"mine": str(path)})
    (task,) = evaluation.data(tokenizer_of(folder)).values()
    task.check_requests()  # type: ignore[attr-defined]
    task.task.set_config("doc_to_text", "question")  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match=r"would be .* instead of "):
        evaluation.measure(forward_of(folder), "acc/mine", task, Mask(N_BLOCKS))
    with pytest.raises(RequestError, match="request 2 to the model would be None instead of 'b'"):
        check_equal(["a"], ["a", "b"], "FILE")


@pytest.mark.parametrize("template", ["{question} {choices}", "{{question}} {question}", "{% x %}{question}"])
def test_a_template_with_other_fields_is_refused(tmp_path: Path, template: str) -> None:
    path = lines(tmp_path / "items.jsonl", SNAIL)
    with pytest.raises(InputError, match=r"but only \{question\} is filled in"):
        LocalFiles(items={"mine": str(path)}, template=template).data(None)
    with pytest.raises(InputError, match=r"but only \{question\} is filled in"):
        Items("file", 1, 0, str(path), template=template).draw(Numbers())


def test_a_backslash_and_an_n_are_no_new_line(tmp_path: Path) -> None:
    path = str(lines(tmp_path / "items.jsonl", SNAIL))
    with pytest.raises(
        InputError, match=r"a backslash and an n, which are no new line: in bash, write \$'eval"
    ):
        LocalFiles(items={"mine": path}, templates={"mine": r"{question}\nAnswer:"}).data(None)


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


def test_each_file_can_have_its_own_template(folder: Path, tmp_path: Path) -> None:
    path = str(lines(tmp_path / "items.jsonl", SNAIL))
    evaluation = LocalFiles(
        items={"a": path, "b": path}, template="T {question}", templates={"b": "{question}="}
    )
    data = evaluation.data(tokenizer_of(folder))
    assert [task.asked[0][0] for task in data.values()] == [f"T {ITEM.question}", f"{ITEM.question}="]  # type: ignore[attr-defined]
    for templates, message in (
        ({"c": "{question}"}, "unknown name in eval.templates 'c'"),
        ({"a": "x"}, "eval.templates.a='x' does not contain"),
        ("{question}", "eval.templates={question}: give"),
    ):
        with pytest.raises(InputError) as caught:
            LocalFiles(items={"a": path}, templates=templates)
        assert message in str(caught.value)


def test_contexts_are_compared_by_their_common_continuation(folder: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "schema.jsonl", WINOGRANDE, WINOGRANDE | {"continuation": "is quiet.", "gold": 1})
    evaluation, tokenizer = LocalFiles(items={"mine": str(path)}), tokenizer_of(folder)
    (task,) = evaluation.data(tokenizer).values()
    measured = evaluation.measure(forward_of(folder), "acc/mine", task, Mask(N_BLOCKS))
    assert measured.metrics.keys() == {"acc/mine", "acc/mine/stderr"}, "contexts are not normalised by length"
    assert measured.how["metric"] == "acc"
    hits = []
    for sample in samples_of(measured.files):
        assert [pair[1] for pair in sample["arguments"]] == [f" {sample['doc']['continuation']}"] * 2
        logliks = [answer[0][0] for answer in sample["resps"]]
        hits.append(logliks.index(max(logliks)) == sample["doc"]["answer"])
    assert measured.metrics["acc/mine"] == sum(hits) / 2
    other = lines(
        tmp_path / "other.jsonl", WINOGRANDE | {"gold": 1}, WINOGRANDE | {"continuation": "is quiet."}
    )
    assert task_of(other, tokenizer).sha256 != task.sha256, "the right answer is part of the digest"
    samples = Items("file", 2, 0, str(path)).draw(tokenizer)
    ((_, engine, _),) = forward_of(folder).loglikelihoods(samples.rows, [Mask(N_BLOCKS)])
    first = [answer[0][0] for answer in samples_of(measured.files)[0]["resps"]]
    assert first == pytest.approx(engine[:2], rel=1e-4)
    assert overlaps(samples, {"acc/mine": task}) == {"acc/mine": 2}


def windows(*texts: tuple[int, ...]) -> Samples:
    return Samples("text", "t", tuple(Row(ids, (1, len(ids))) for ids in texts), 0)


class Blank(Numbers):
    """A tokenizer whose tokens below 10 are white space."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(" " if i < 10 else "x" for i in ids)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (windows((1, 2), (3, 4)), "hold nothing but white space"),
        (windows((11, 12), (11, 12)), "are 2 windows that are all the same"),
        (
            windows((11, 12, 13, 14, 15)),
            "rows of 5 tokens, and tiny reads at most 4: lower calibration.length.",
        ),
    ],
)
def test_windows_that_mean_nothing_are_refused(samples: Samples, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_calibration(samples, Reader("tiny", 4, Blank()))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (windows((1, 2), (3, 14)), "1 of 2 windows hold nothing but white space"),
        (windows((11, 12), (11, 12), (11, 13)), "1 of 3 windows repeat another one"),
        (windows((11, 12)), "are one sample, which has no standard error"),
    ],
)
def test_windows_that_mean_little_are_reported(
    samples: Samples, message: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruning.runs.check_data._said", set())
    for _ in range(2):
        check_calibration(samples, Reader("tiny", None, Blank()))
    assert caplog.text.count(message) == 1


LONG = "word " * 3000


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([SNAIL] * 10, "are 10 items that are all the same, so their standard error would be 0"),
        (
            [SNAIL, SNAIL | {"question": LONG}],
            "1 of 2 items, the first of them number 2, are longer than the 2048",
        ),
    ],
)
def test_items_that_give_wrong_numbers_are_refused_before_the_search(
    launch: Command, tmp_path: Path, records: list[Any], message: str
) -> None:
    lines(tmp_path / "items.jsonl", *records)
    ended = launch("k=1", "algo=one_shot", "eval=local", "eval.items={mine: items.jsonl}")
    assert (ended.status, ended.all()) == (2, [])
    assert message in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([SNAIL] * 10, "the calibration data are 10 items that are all the same"),
        (
            [SNAIL, SNAIL | {"question": LONG}],
            "tiny reads at most 2048: remove the items that are longer (1 of 2).",
        ),
    ],
)
def test_calibration_items_that_give_wrong_losses_are_refused(
    folder: Path, tmp_path: Path, records: list[Any], message: str
) -> None:
    path = lines(tmp_path / "items.jsonl", *records)
    tokenizer = tokenizer_of(folder)
    samples = Items("file", len(records), 0, str(path)).draw(tokenizer)
    with pytest.raises(InputError) as caught:
        check_calibration(samples, Reader("tiny", 2048, tokenizer))
    assert message in str(caught.value)


def test_rows_on_both_sides_of_a_change_of_longrope_are_refused(folder: Path) -> None:
    """The loss of a row would depend on the other rows of its batch."""
    factors = {"rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", **factors}
    lengths = {"max_position_embeddings": 128, "original_max_position_embeddings": 16}
    config = Phi3Config(hidden_size=32, num_attention_heads=4, rope_parameters=rope, **lengths)
    reader = Reader.of("phi", config, tokenizer_of(folder))
    assert (reader.most, reader.change) == (128, 16)

    def windows(*lengths: int) -> Samples:
        rows = (Row(tuple(range(60 + i, 60 + i + n)), (1, n)) for i, n in enumerate(lengths))
        return Samples("text", "t", tuple(rows), 0)

    assert Reader.of("mpt", MptConfig(max_seq_len=64), reader.tokenizer).most == 64
    for alike in ((12, 16), (17, 40)):
        check_calibration(windows(*alike), reader)
    with pytest.raises(InputError, match=r"above 16 tokens phi embeds .* Lower calibration\.length"):
        check_calibration(windows(16, 17), reader)


def test_repeated_items_are_recorded_and_one_item_has_no_standard_error(folder: Path, tmp_path: Path) -> None:
    evaluation = LocalFiles(
        items={
            "twice": str(lines(tmp_path / "a.jsonl", SNAIL, SNAIL, SNAIL | {"question": "Which is fast?"})),
            "one": str(lines(tmp_path / "b.jsonl", SNAIL)),
        }
    )
    data = evaluation.data(tokenizer_of(folder))
    check_evaluation(data, Reader("tiny", 2048, tokenizer_of(folder)), evaluation)
    twice, one = (
        evaluation.measure(forward_of(folder), name, task, Mask(N_BLOCKS)) for name, task in data.items()
    )
    assert twice.how["repeated"] == 1
    assert one.metrics.keys() == {"acc/one", "acc_plain/one"}
    assert averaged({**twice.metrics, **one.metrics}).keys() == {"acc/mean"}
    drawn = Items("file", 1, 0, str(tmp_path / "b.jsonl")).draw(tokenizer_of(folder))
    assert item_accuracy("acc/x", forward_of(folder), drawn, Mask(N_BLOCKS)).metrics.keys() == {"acc/x"}


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
    files = {
        name: evaluation.measure(forward, name, task, Mask(N_BLOCKS)).files for name, task in data.items()
    }
    for name, task in data.items():
        alone = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "bfloat16"},
            tasks=[task.task],  # type: ignore[attr-defined]
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            batch_size=8,
            device="cpu",
            bootstrap_iters=2,
        )
        expected = [sample["resps"] for sample in alone["samples"][name.partition("/")[2]]]
        assert [s["resps"] for s in samples_of(files[name])] == json.loads(json.dumps(expected))


def score(loss: float, *terms: float, of: int | None = None) -> Score:
    return Score(Mask(N_BLOCKS, (1,)), loss, terms, 0.5, of)


TWO = Estimate((1.0, 3.0), (0, 0))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (score(1.5, 1.0, 2.0), "line 1 contradicts itself: its loss is 1.5, and its terms give 1.75"),
        (score(1.0, 1.0), "it has 1 terms of 1 samples, and the cell has 2"),
        (score(1.0, 1.0, 1.0, 1.0), "it has 3 terms of 3 samples, and the cell has 2"),
        (score(2.0, 1.0, of=2), "its loss is 2, and its terms give 1"),
    ],
)
def test_a_journal_line_that_contradicts_itself_is_damaged(
    tmp_path: Path, line: Score, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cell" / "trace.jsonl"
    path.parent.mkdir()
    Store(tmp_path, "key", "cell", N_BLOCKS).claim()
    path.write_text(json.dumps(line.to_line()) + "\n")
    with pytest.raises(DamagedError) as caught:
        Journal.open(path, N_BLOCKS, TWO)
    assert message in str(caught.value)
    store = Store(tmp_path, "key", "other", N_BLOCKS, estimate=TWO)
    assert store.find([line.mask]) == []
    assert "skipped a damaged line" in caplog.text


def test_whole_and_partial_lines_are_taken(tmp_path: Path) -> None:
    for number, line in enumerate((score(1.75, 1.0, 2.0), score(1.0, 1.0, of=2))):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(line.to_line()) + "\n")
        assert Journal.open(path, N_BLOCKS, TWO).scores == {line.mask: line}


def test_a_cell_does_not_go_on_from_a_changed_journal(launch: Command) -> None:
    result = launch("k=1", "algo=one_shot").result()
    cell = launch("k=1", "algo=one_shot").results / result["cell"]
    (cell / "result.json").unlink()
    whole = (cell / "trace.jsonl").read_text()
    first, second, rest = whole.split("\n", 2)
    line = json.loads(second)
    (cell / "trace.jsonl").write_text("\n".join([first, json.dumps(line | {"loss": line["loss"] / 2}), rest]))
    ended = launch("k=1", "algo=one_shot")
    assert ended.status == 1
    assert "line 2 contradicts itself" in " ".join((ended.out + ended.err).split())
    (cell / "trace.jsonl").write_text("\n".join([first, rest]))
    again = launch("k=1", "algo=one_shot").result()
    assert (again["mask"], again["calibration"]) == (result["mask"], result["calibration"])


@pytest.mark.parametrize("damage", [b"", b"{", b"untouched\n"])
def test_a_damaged_file_of_samples_is_repaired(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    samples = windows((1, 2), (1, 3))
    path = samples.save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert samples.save(tmp_path).read_bytes() == whole
    assert "was damaged" in caplog.text


def test_a_result_from_before_a_setting_existed_is_done() -> None:
    old = {"class": "LocalFiles", "items": {"a": "x"}, "limit": None}
    assert same_settings(old, old | {"option": "local", "templates": None})
    assert not same_settings(old, old | {"templates": {"a": "{question}"}})
    assert not same_settings(old | {"limit": 5}, old)


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "piqa", "boolq", "commonsense170k_part"])
def test_every_real_file_of_items_is_read(name: str) -> None:
    ending = ".json" if name == "commonsense170k_part" else ".jsonl"
    items = read_items(shared_data(f"{name}{ending}"), equal_choices=True)
    assert len(items) > 1000
    assert all(item.question and len(item.choices) >= 2 for item in items)


def test_the_error_of_a_single_calibration_sample_is_not_stated(launch: Command) -> None:
    from analysis.data.load import row_of

    ended = launch("k=1", "algo=one_shot", "calibration.samples=1")
    result = ended.result()
    assert result["calibration"]["standard_error"] is None
    assert result["margins"]["runner_up"]["standard_error"] is None
    assert row_of(ended.results / result["cell"])["status"] == "done"

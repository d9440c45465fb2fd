"""`depth-pruning referee`: a dry run, what is refused, a stand-in for the 7B models, resuming, our own masks."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning import cli
from pruning.core.storage import read_json
from pruning.models.handle import Model
from pruning.published import library
from tests.conftest import Ended
from tests.helpers.architectures import saved_llama

MASKS = "sleb-llama2-dense,sleb-llama2-7-march13,evopress-mistral-4,evopress-llama3-8,pudding-mathqa"
WINDOW = "eval.corpora.wikitext2.window={0} eval.corpora.wikitext2.stride={0}"
Referee = Callable[[str], Ended]


@pytest.fixture
def referee(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Referee:
    """The command in this process, on the arguments of a line."""
    monkeypatch.chdir(tmp_path)

    def command(line: str) -> Ended:
        words = ["tracker=none", f"paths.results={tmp_path / 'results'}", *line.split()]
        monkeypatch.setattr("sys.argv", ["depth-pruning", "referee", *words])
        capfd.readouterr()
        caplog.clear()
        status: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        return Ended(int(status or 0), out, err + caplog.text, tmp_path / "results")

    return command


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama of 32 blocks, as many as the published 7B and 8B models have, that reads 8,192 tokens."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"num_hidden_layers": 32, "max_position_embeddings": 8192, "initializer_range": 0.2}
    return saved_llama(tmp_path_factory.mktemp("deep"), tokenizer, **sizes, **more)


def rows(ended: Ended) -> list[dict[str, Any]]:
    """The rows of the table that a command has written."""
    assert ended.status == 0, ended.err
    data = read_json(ended.results / "published" / "table.json")
    with (ended.results / "published" / "table.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(data["rows"])
    return list(data["rows"])


def standing(folder: Path, only: str) -> str:
    return f"--standin {folder} --only {only} eval.limit=1 {WINDOW.format(256)}"


def test_a_dry_run_says_what_it_would_do_and_what_is_missing(referee: Referee) -> None:
    ended = referee("--only sleb,quark-qwen2.5-5 --dry-run")
    assert ended.status == 0, ended.err
    for part in (
        "4 published masks with 7 numbers",
        "quark-qwen2.5-5         qwen2_5_14b_instruct   Quark",
        "22 23 24 25 26",
        "model llama2_7b (meta-llama/Llama-2-7b-hf): missing",
        "text wikitext2 (Salesforce/wikitext test): missing",
        "--only ours",
    ):
        assert part in ended.out
    assert not (ended.results / "published").exists()


def test_without_hub_and_cache_it_is_refused_before_anything_is_measured(referee: Referee) -> None:
    ended = referee("--only sleb")
    assert ended.status == 2
    for part in ("llama2_7b (meta-llama/Llama-2-7b-hf)", "c4 (allenai/c4 validation)", "--model NAME=DIR"):
        assert part in ended.err
    assert not (ended.results / "published").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--only sleb,slebb", "'slebb'. Did you mean sleb"),
        ("--only sleb --tolerance 1.5", "--tolerance=1.5"),
        ("--only sleb --model llama=x", "--model 'llama'"),
        ("--only sleb --model DIR", "--model DIR"),
        ("--only sleb --text wiki=x", "--text 'wiki'"),
        ("--only sleb --standin nowhere", "--standin nowhere"),
        ("--only sleb eval=embedded", "eval=embedded "),
        ("--only sleb eval=perplexty", "'perplexty'"),
        ("--only sleb launcher=processes", "launcher=processes"),
        ("--only sleb seed=0,1", "seed=0,1"),
        ("--onyl sleb", "--onyl"),
        ("eval.limt=1", "limt"),
    ],
)
def test_wrong_arguments_are_refused(referee: Referee, line: str, message: str) -> None:
    ended = referee(line)
    assert ended.status == 2
    assert message in ended.err


@pytest.mark.slow
def test_real_masks_run_on_a_stand_in_and_a_second_run_loads_nothing(
    referee: Referee, deep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = referee(standing(deep_folder, MASKS))
    table = {(row["mask"], row["text"]): row for row in rows(ended)}
    assert len(table) == 9
    assert {row["verdict"] for row in table.values()} == {"stand-in", "no number"}
    sleb = table["sleb-llama2-7-march13", "c4"]
    assert sleb["removed"] == [10, 11, 14, 15, 23, 24, 27]
    assert sleb["not_stated"] == ["dtype"]
    assert sleb["own_protocol"]["start"] == "text"
    assert table["evopress-llama3-8", "wikitext2"]["own_protocol"]["window"] == 8192
    assert table["evopress-llama3-8", "wikitext2"]["removed"][:2] == ["b4", "m8"]
    assert table["pudding-mathqa", "wikitext2"]["one"] > 1
    aspects = [step["aspect"] for step in table["evopress-mistral-4", "wikitext2"]["steps"]]
    assert aspects == ["windows", "start token", "last window", "precision"]
    files = [path for path in ended.results.glob("published/standin/*/*.json") if ".terms" not in path.name]
    times = {file: file.stat().st_mtime_ns for file in files}
    assert len(files) > 9

    def refuse(*_: Any) -> Any:
        raise AssertionError("every measurement is in a file")

    monkeypatch.setattr(Model, "load", refuse)
    assert rows(referee(standing(deep_folder, MASKS))) == list(table.values())
    assert {file: file.stat().st_mtime_ns for file in files} == times


def test_what_is_missing_after_a_kill_is_measured_again_and_masks_of_other_models_are_left_out(
    referee: Referee, deep_folder: Path
) -> None:
    line = standing(deep_folder, "pudding-sciq,pudding-mathqa,quark-qwen2.5-5,ours-smollm2-dense")
    first = referee(line)
    before = rows(first)
    assert [row["mask"] for row in before] == ["pudding-mathqa", "pudding-sciq"]
    assert "1 of smollm2 (30 blocks)" in first.err
    assert "1 of qwen2_5_14b_instruct (48 blocks)" in first.err
    files = [path for path in first.results.glob("published/standin/*/*.json") if ".terms" not in path.name]
    assert len(files) == 2
    files[0].unlink()
    second = referee(line)
    assert "1 of 2 measurements are known" in second.err
    assert second.err.count("measurement 1 of 1") == 1
    assert rows(second) == before


def test_a_model_with_other_blocks_is_refused(referee: Referee, model_folder: Path, tmp_path: Path) -> None:
    ended = referee(standing(model_folder, "sleb,quark-qwen2.5-5"))
    assert (ended.status, "32, 48 blocks" in ended.err) == (2, True)
    (tmp_path / "c4.txt").write_text("A text. " * 99)
    ended = referee(
        f"--only sleb-llama2-7-march13 --model llama2_7b={model_folder} --text c4={tmp_path}/c4.txt"
    )
    assert (ended.status, "6 blocks" in ended.err) == (2, True)


def test_a_model_and_texts_that_are_given_are_used_and_gaps_are_explained(
    referee: Referee, deep_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model of our own, a number that was measured in its own protocol is found there."""
    text = tmp_path / "text.txt"
    text.write_text("The fox jumps over the lazy dog, and the dog sleeps near the river. " * 400)
    given = f"--model llama2_7b_chat={deep_folder} --text wikitext2={text} eval.limit=2 {WINDOW.format(128)}"
    line = f"--only quark-llama2-chat-3 {given}"
    (row,) = rows(referee(line))
    assert row["verdict"] == "unexplained"
    entries = library.entries()
    (entry,) = (one for one in entries if one.name == "quark-llama2-chat-3")
    (number,) = entry.numbers
    found = dataclasses.replace(entry, numbers=(dataclasses.replace(number, value=round(row["own"], 2)),))
    monkeypatch.setattr(library, "entries", lambda: tuple(found if e is entry else e for e in entries))
    again = referee(f"{line} --tolerance 0.0001")
    (row,) = rows(again)
    assert row["verdict"] == "protocol"
    assert row["one"] != pytest.approx(row["own"], rel=1e-4)
    assert [step["aspect"] for step in row["steps"]] == ["windows", "start token", "last window"]
    assert read_json(again.results / "published" / "table.json")["tolerance"] == 0.0001


@pytest.mark.slow
@pytest.mark.model
def test_our_own_masks_have_the_numbers_of_our_pages(referee: Referee) -> None:
    """The README's perplexities, on the packaged model: none is off by more than kinds of CPU differ in bfloat16."""
    only = "ours-smollm2-dense,ours-smollm2-perplexity-greedy-3"
    ended = referee(f"--ends --only {only} eval=embedded_windows eval.corpora.pydoc.windows=4")
    for row in rows(ended):
        assert row["verdict"] == "protocol"
        assert row["own"] == pytest.approx(row["published"], rel=0.01)
        assert row["one"] != pytest.approx(row["published"], rel=0.02)

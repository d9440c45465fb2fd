"""`depth-pruning referee`: a dry run, what is refused, masks of papers on a small model, resuming, our own masks."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.core.storage import read_json
from pruning.models.handle import Model
from pruning.published import library
from pruning.study.referee_command import run_referee
from tests.helpers.architectures import saved_llama

MASKS = "sleb-llama2-dense,sleb-llama2-7-march13,evopress-mistral-4,pudding-mathqa"
WINDOW = "eval.corpora.wikitext2.window={0} eval.corpora.wikitext2.stride={0}"
Referee = Callable[[str], str]


@pytest.fixture
def referee(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Referee:
    """The command on the arguments of a line; what it prints and logs."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "pruning")

    def command(line: str) -> str:
        caplog.clear()
        assert run_referee(["tracker=none", *line.split()]) == 0
        return capsys.readouterr().out + caplog.text

    return command


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama of 32 blocks, as many as the published 7B and 8B models have, that reads 8,192 tokens."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"num_hidden_layers": 32, "max_position_embeddings": 8192, "initializer_range": 0.2}
    return saved_llama(tmp_path_factory.mktemp("deep"), tokenizer, **sizes, **more)


def rows() -> list[dict[str, Any]]:
    """The rows of the table that a command has written."""
    return list(read_json(Path("results/published/table.json"))["rows"])


@pytest.fixture
def given(deep_folder: Path, tmp_path: Path) -> str:
    """Words that put a random model in the place of those of 32 blocks, and a short text in the place of all."""
    text = tmp_path / "text.txt"
    text.write_text("The fox jumps over the lazy dog, and the dog sleeps near the river. " * 900)
    words = [f"--model {name}={deep_folder}" for name, one in library.models().items() if one.blocks == 32]
    return " ".join([*words, f"--text wikitext2={text} eval.limit=1", WINDOW.format(128)])


def test_a_dry_run_says_what_it_would_do_and_what_is_missing(referee: Referee) -> None:
    printed = referee("--only sleb,quark-qwen2.5-5 --dry-run")
    for part in (
        *("4 published ", " 7 numbers"),
        "quark-qwen2.5-5         qwen2_5_14b_instruct   Quark",
        "22 23 24 25 26",
        "model llama2_7b (meta-llama/Llama-2-7b-hf): ",
        "text wikitext2 (Salesforce/wikitext/wikitext-2-raw-v1/test): ",
        "--only ours",
    ):
        assert part in printed
    assert not Path("results/published").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--only sleb", r"llama2_7b \(meta-llama/Llama-2-7b-hf\)"),
        ("--only sleb,slebb", "'slebb'.* sleb"),
        ("--only sleb --model llama=x", "--model 'llama'"),
        ("--only sleb --model DIR", "--model DIR"),
        ("--only sleb --text wiki=x", "--text 'wiki'"),
        ("--only sleb eval=embedded", "eval=embedded "),
        ("--only sleb eval=perplexty", "'perplexty'"),
        ("--only sleb launcher=processes", "launcher=processes"),
        ("--only sleb seed=0,1", "seed=0,1"),
        ("--onyl sleb", "--onyl"),
        ("eval.limt=1", "limt"),
    ],
)
def test_wrong_arguments_are_refused(
    referee: Referee, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((InputError, SystemExit)) as error:
        referee(line)
    assert re.search(message, f"{error.value} {capsys.readouterr().err}")
    assert not Path("results/published").exists()


def test_masks_of_papers_are_measured_and_a_second_run_measures_only_what_is_missing(
    referee: Referee, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"--only {MASKS} --text c4={tmp_path / 'text.txt'} {given}"
    referee(line)
    table = {(row["mask"], row["text"]): row for row in rows()}
    assert len(table) == 7
    assert {row["verdict"] for row in table.values()} == {"unexplained", "no number"}
    sleb = table["sleb-llama2-7-march13", "c4"]
    assert sleb["removed"] == [10, 11, 14, 15, 23, 24, 27]
    assert sleb["not_stated"] == ["dtype"]
    assert sleb["own_protocol"]["start"] == "text"
    mistral = table["evopress-mistral-4", "wikitext2"]
    assert mistral["own_protocol"]["window"] == 8192
    assert "window 128 -> 8192, start window -> none, tail True -> False" in mistral["why"]
    assert table["pudding-mathqa", "wikitext2"]["one"] > 1
    folder = Path("results/published/llama3_1_8b")
    (lost,) = (path for path in folder.glob("*/*.json") if ".terms" not in path.name)
    lost.unlink()
    second = referee(line)
    assert "12 of 13 measurements" in second
    assert second.count("measurement 1 of 1") == 1
    assert rows() == list(table.values())
    monkeypatch.setattr(Model, "load", lambda _: pytest.fail("every measurement is in a file"))
    referee(line)
    assert rows() == list(table.values())


@pytest.mark.slow
@pytest.mark.model
def test_our_own_masks_have_the_numbers_of_our_pages(referee: Referee) -> None:
    """The README's perplexities, on the packaged model: none is off by more than kinds of CPU differ in bfloat16."""
    only = "ours-smollm2-dense,ours-smollm2-perplexity-greedy-3"
    referee(f"--only {only} eval=embedded_windows eval.corpora.pydoc.windows=4")
    for row in rows():
        assert row["verdict"] == "protocol"
        assert row["own"] == pytest.approx(row["published"], rel=0.01)
        assert row["one"] != pytest.approx(row["published"], rel=0.02)

"""`experiment=published`: the dry run, what is refused, a stand-in for the 7B models, resuming, our own masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core.storage import read_json
from pruning.models.model import Model
from pruning.published import library
from tests.conftest import Command, Ended

MASKS = "sleb-llama2-dense,sleb-llama2-7-march13,evopress-mistral-4,evopress-llama3-8,pudding-mathqa"
PUBLISHED = ("experiment=published", "eval=perplexity")
SMALL = (
    *("eval=perplexity", "eval.limit=1"),
    *("eval.corpora.wikitext2.window=256", "eval.corpora.wikitext2.stride=256"),
)


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama of 32 blocks, as many as the published 7B and 8B models have, that reads 8,192 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("deep")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(ended: Ended) -> list[dict[str, Any]]:
    """The rows of the table that a command has written."""
    data = read_json(ended.results / "published" / "table.json")
    with (ended.results / "published" / "table.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(data["rows"])
    return list(data["rows"])


def standing(launch: Command, folder: Path, *words: str) -> Ended:
    return launch("experiment=published", f"published.standin={folder}", *SMALL, *words)


def test_a_dry_run_says_what_it_would_do_and_what_is_missing(launch: Command) -> None:
    ended = launch(*PUBLISHED, "published.only=sleb,quark-qwen2.5-5", "published.dry_run=true")
    assert ended.status == 0, ended.err
    assert "4 published masks with 7 numbers" in ended.out
    assert "quark-qwen2.5-5         qwen2_5_14b_instruct   Quark" in ended.out
    assert "22 23 24 25 26" in ended.out
    assert "model llama2_7b (meta-llama/Llama-2-7b-hf): missing (it is not in the cache" in ended.out
    assert "text wikitext2 (Salesforce/wikitext test): missing" in ended.out
    assert "llama2_7b float16: " in ended.out
    assert "in all " in ended.out
    assert "published_ours" in ended.out
    assert "This was a dry run: nothing was measured." in ended.out
    assert not (ended.results / "published").exists()


def test_without_hub_and_cache_it_is_refused_before_anything_is_measured(launch: Command) -> None:
    ended = launch(*PUBLISHED, "published.only=sleb")
    assert ended.status == 2
    assert "model llama2_7b (meta-llama/Llama-2-7b-hf): it is not in the cache" in ended.err
    assert "text c4 (allenai/c4 validation)" in ended.err
    assert "published.models={NAME: DIR}" in ended.err
    assert not (ended.results / "published").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("published.only=sleb,slebb",), "unknown published mask, paper or model 'slebb'. Did you mean sleb"),
        (("published.only=sleb", "published.tolerance=1.5"), "published.tolerance=1.5 is out of range"),
        (
            ("published.only=sleb", "published.models={llama: x}"),
            "unknown model in published.models 'llama'",
        ),
        (("published.only=sleb", "published.texts={wiki: x}"), "unknown text in published.texts 'wiki'"),
        (("published.only=sleb", "published.standin=nowhere"), "there is no such directory"),
        (("eval=embedded", "published.only=sleb"), "give eval=perplexity or eval=embedded_windows"),
        (("published.only=sleb", "seed=0,1"), "only published.only can have several values"),
        (("published.only=sleb", "launcher=processes"), "needs launcher=local"),
        (("published.onyl=sleb",), "onyl"),
        (("published.only=sleb", "published.models=DIR"), "published.models=DIR is no mapping"),
    ],
)
def test_wrong_settings_are_refused(launch: Command, words: tuple[str, ...], message: str) -> None:
    ended = launch(*PUBLISHED, *words)
    assert ended.status == 2
    assert message in ended.err


@pytest.mark.slow
def test_real_masks_run_on_a_stand_in_and_a_second_run_loads_nothing(
    launch: Command, deep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = standing(launch, deep_folder, f"published.only={MASKS}")
    assert ended.status == 0, ended.err
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
    files = sorted(ended.results.glob("published/standin/*/*.json"))
    files = [file for file in files if not file.name.endswith(".terms.json")]
    times = {file: file.stat().st_mtime_ns for file in files}
    assert len(files) > 9

    def refuse(*_: Any) -> Any:
        raise AssertionError("every measurement is in a file")

    monkeypatch.setattr(Model, "load", refuse)
    again = standing(launch, deep_folder, f"published.only={MASKS}")
    assert again.status == 0, again.err
    assert rows(again) == list(table.values())
    assert {file: file.stat().st_mtime_ns for file in files} == times


def test_what_is_missing_after_a_kill_is_measured_again_and_nothing_else(
    launch: Command, deep_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("published.only=pudding-sciq,pudding-mathqa",)
    first = standing(launch, deep_folder, *words)
    before = rows(first)
    files = [f for f in first.results.glob("published/standin/*/*.json") if ".terms" not in f.name]
    assert len(files) == 2
    files[0].unlink()
    second = standing(launch, deep_folder, *words)
    assert "1 of 2 measurements are known" in second.err
    assert second.err.count("measurement 1 of 1") == 1
    assert rows(second) == before


def test_masks_of_models_with_other_blocks_are_left_out_and_named(launch: Command, deep_folder: Path) -> None:
    ended = standing(launch, deep_folder, "published.only=pudding-sciq,quark-qwen2.5-5,ours-smollm2-dense")
    assert ended.status == 0, ended.err
    assert [row["mask"] for row in rows(ended)] == ["pudding-sciq"]
    assert "1 of smollm2 (30 blocks)" in ended.err
    assert "1 of qwen2_5_14b_instruct (48 blocks)" in ended.err


def test_a_stand_in_that_fits_nothing_is_refused(launch: Command, model_folder: Path) -> None:
    ended = standing(launch, model_folder, "published.only=sleb,quark-qwen2.5-5")
    assert ended.status == 2
    assert "fits no published mask that is asked for: their models have 32, 48 blocks" in ended.err


def test_a_model_in_a_directory_with_other_blocks_than_its_masks_is_refused(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "c4.txt"
    text.write_text("A text. " * 99)
    words = (f"published.models={{llama2_7b: '{model_folder}'}}", f"published.texts={{c4: '{text}'}}")
    ended = launch(*PUBLISHED, "published.only=sleb-llama2-7-march13", *words)
    assert ended.status == 2
    assert "has 6 blocks, and the published masks of llama2_7b are for 32" in ended.err


def test_a_model_and_texts_that_are_given_are_used_and_gaps_are_explained(
    launch: Command, deep_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model of our own, a number that was measured in its own protocol is found there."""
    text = tmp_path / "text.txt"
    text.write_text("The fox jumps over the lazy dog, and the dog sleeps near the river. " * 400)
    words = (
        *(*PUBLISHED, "published.only=quark-llama2-chat-3", "eval.limit=2"),
        f"published.models={{llama2_7b_chat: '{deep_folder}'}}",
        f"published.texts={{wikitext2: '{text}'}}",
        *("eval.corpora.wikitext2.window=128", "eval.corpora.wikitext2.stride=128"),
    )
    ended = launch(*words)
    assert ended.status == 0, ended.err
    (row,) = rows(ended)
    assert row["verdict"] == "unexplained"
    entries = library.entries()
    (entry,) = (one for one in entries if one.name == "quark-llama2-chat-3")
    import dataclasses

    (number,) = entry.numbers
    found = dataclasses.replace(entry, numbers=(dataclasses.replace(number, value=round(row["own"], 2)),))
    monkeypatch.setattr(library, "entries", lambda: tuple(found if e is entry else e for e in entries))
    again = launch(*words, "published.tolerance=0.0001")
    (row,) = rows(again)
    assert row["verdict"] == "protocol"
    assert row["one"] != pytest.approx(row["own"], rel=1e-4)
    assert [step["aspect"] for step in row["steps"]] == ["windows", "start token", "last window"]
    assert "its own protocol, so the protocol explains the gap" in again.out
    assert json.loads((again.results / "published" / "table.json").read_text())["tolerance"] == 0.0001


@pytest.mark.slow
@pytest.mark.model
def test_our_own_masks_have_the_numbers_of_our_pages(launch: Command) -> None:
    """The README's perplexities, on the packaged model: none is off by more than kinds of CPU differ in bfloat16."""
    ended = launch(
        *("experiment=published_ours", "published.steps=false"),
        *("published.only=ours-smollm2-dense,ours-smollm2-perplexity-greedy-3", "eval=embedded_windows"),
        *("eval.corpora.pydoc.windows=4",),
    )
    assert ended.status == 0, ended.err
    for row in rows(ended):
        assert row["verdict"] == "protocol"
        assert row["own"] == pytest.approx(row["published"], rel=0.01)
        assert row["one"] != pytest.approx(row["published"], rel=0.02)

"""The model card and the other texts of an export, compared with golden files, and read as the hub reads them."""

from __future__ import annotations

from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pruning.config.app import launch_words
from pruning.core import VERSION
from pruning.core.mask import Mask
from pruning.core.storage import read_json
from pruning.export.checkpoint import ModelSizes
from pruning.export.model_card import CutFile, Facts, launched, model_card, summary
from tests.conftest import Command
from tests.healing.test_healing_launch import SEARCH, SHORT, passage

CARDS = Path(__file__).with_name("cards")
RESULT: dict[str, Any] = {
    "cell": "tiny-perplexity-greedy-k2-s0-12345678",
    "model": {"dtype": "bfloat16"},
    "mask": {"n_blocks": 6, "dropped": [0, 4]},
    "search": {"algo": "greedy"},
    "calibration": {
        "objective": "perplexity",
        "dense_loss": 3.0,
        "loss": 3.25,
        "samples": 16,
        "length": 256,
        "source": "pydoc",
        "seed": 0,
        "sha256": "ab" * 32,
    },
    "evaluation": {
        "dense": {"ppl/heldout": 16.9, "ppl/heldout/stderr": 0.5, "acc/heldout": 0.532},
        "pruned": {
            "ppl/heldout": 40.38,
            "ppl/heldout/stderr": 1.25,
            "acc/heldout": 0.49,
            "speed/decode": 100.0,
        },
        "data": {"ppl/heldout": "cd" * 32},
        "how": {"ppl/heldout": {"source": "pydoc", "windows": 16, "limit": None, "corpus": {"join": "\n\n"}}},
    },
}
FACTS = Facts(
    name="tiny-4-of-6-blocks",
    base="someone/tiny",
    source="someone/tiny",
    dtype="bfloat16",
    mask=Mask(6, (0, 3)),
    sizes=ModelSizes(1_000_000, 800_000, 2_000_000, 1_600_000),
    commands=["python launch.py k=2 export=DIR"],
    proof="reloaded and found equal",
    result=RESULT,
)
HEALED: Any = {
    "settings": {"class": "Full", "lr": 1e-4},
    "source": "pydoc",
    "tokens": 2048,
    "steps": 8,
    "seconds": 3.0,
    "best_step": 8,
    "curve": {"heldout_before": 3.5, "heldout_after": 3.25},
}
RATES = [{"lr": 1e-4, "tokens": 1024}, {"lr": 3e-4, "tokens": 1024}]
MARGINS = {
    "compared": 12,
    "runner_up": {"dropped": [0, 5], "difference": 0.25, "standard_error": 0.125},
    "tied": 3,
    "near_ties": {"open": 1},
}
SELECTION = {
    "changed": True,
    "mask": {"n_blocks": 6, "dropped": [0, 3]},
    "rounds": [[{"dropped": [0, 4]}, {"dropped": [0, 3]}]],
    "losses": [3.25, 3.3],
}
TIMING = {
    "prefill_per_second": {"median": 1000.0, "low": 990.0, "high": 1010.5},
    "decode_per_second": {"median": 26.12, "low": 25.0, "high": 27.0},
    "first_token_seconds": {"median": 0.0612, "low": 0.06, "high": 0.07},
    "peak_memory": 2_500_000_000,
}
RUN = {
    "batch": 1,
    "prompt": 16,
    "new_tokens": 3,
    "dense": TIMING,
    "pruned": TIMING | {"peak_memory": 2_000_000_000},
    "ratio": {"prefill": 1.2, "decode": 1.25, "first_token": 1.1},
}
SPEED = {"device": "A <fast> GPU", "repeats": 3, "warmup": 1, "dtype": "bfloat16", "runs": [RUN]}
HEALED_PPL = {"ppl/heldout": 30.0, "acc/heldout": 0.5}
PARTS = {"mask": Mask.parse(6, "b0 a1 a2 m3"), "idle": 150_000}


def measured(**more: Any) -> dict[str, Any]:
    """A result with further measurements."""
    return RESULT | {"evaluation": RESULT["evaluation"] | more}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_cell": {"result": None, "base": "folder"},
    "parts": PARTS | {"result": measured(overlap={"pydoc": 2, "wiki_text": 1})},
    "repaired": {
        "repair": ["m0", "a2"],
        "result": measured(uncompensated={"ppl/heldout": 99.0}) | {"repair": {"runs": [{"folded": "m0"}]}},
    },
    "unrepaired": {"result": RESULT | {"repair": {"runs": [{"removed": ["b1"], "folded": None}]}}},
    "healed": {
        "healed": HEALED | {"rates": RATES},
        "result": measured(healed=HEALED_PPL) | {"margins": MARGINS},
        "changes": {"ppl/heldout": "+77.5 ± 2.1 % (worse)"},
    },
    "healed_repaired": {
        "healed": HEALED | {"best_step": 4, "settings": {"class": "Distill", "lr": 1e-3, "weights": "lora"}},
        "repair": ["m2"],
        "result": measured(healed=HEALED_PPL),
    },
    "healed_in_vain": {
        "healed": HEALED | {"best_step": 0, "settings": {"class": "Lora", "lr": 1e-3}},
        "result": measured(healed=HEALED_PPL),
    },
    "reselected": {"healed": HEALED | {"selection": SELECTION}, "result": measured(healed=HEALED_PPL)},
    "speed": {"result": measured(speed=SPEED)},
    "speed_only": {"result": RESULT | {"evaluation": {"dense": {}, "pruned": {}, "speed": SPEED}}},
}
FILES: dict[str, dict[str, Any]] = {
    "gguf": {"file": CutFile("Cut.gguf", "ef" * 32, None)},
    "gguf_listed": {"file": CutFile("cut.gguf", "ef" * 32, "gemma2.attention.pattern")},
}


@pytest.mark.parametrize("case", CASES | FILES)
def test_the_texts_are_those_of_the_golden_files(case: str) -> None:
    facts = replace(FACTS, **(CASES | FILES)[case])
    texts = [model_card(facts), summary(facts, Path("out")) + "\n"]
    assert "\n======\n".join(texts).replace(VERSION, "VERSION") == (CARDS / f"{case}.md").read_text(
        encoding="utf-8"
    )


def test_the_card_is_one_that_the_hub_reads() -> None:
    data = ModelCard(model_card(FACTS)).data
    assert (data.base_model, data.library_name) == ("someone/tiny", "transformers")
    assert data.model_name == "tiny-4-of-6-blocks"
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values == {"ppl/heldout": 40.38, "acc/heldout": 0.49, "speed/decode": 100.0}
    without = ModelCard(model_card(replace(FACTS, result=None, base="folder"))).data
    assert (without.base_model, without.eval_results) == (None, None), "a directory is not a hub name"


def test_the_card_links_to_the_page_that_the_package_names(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Message()
    named["Project-URL"] = "Changelog, https://a.example/changes"
    named["Project-URL"] = "Homepage, https://a.example"
    monkeypatch.setattr("importlib.metadata.metadata", lambda _: named)
    assert f"[depth-pruning {VERSION}](https://a.example)" in model_card(FACTS)


def test_licences_are_passed_on() -> None:
    inherited = {"license": "other", "license_name": "terms", "language": "en"}
    data = ModelCard(model_card(replace(FACTS, inherited=inherited))).data
    assert (data.license, data.license_name, data.language) == ("other", "terms", "en")
    assert ModelCard(model_card(replace(FACTS, base="google/gemma-3-270m"))).data.license == "gemma"


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        ("a1", "the attention of 1 of its 6 transformer blocks"),
        ("m1 m2", "the MLP of 2 of its 6 transformer blocks"),
        ("a1 a2 m0", "the attention of 2 of its 6 transformer blocks and the MLP of 1 of its 6 blocks"),
        ("b0 b5 a1", "2 of its 6 transformer blocks and the attention of 1 other"),
    ],
)
def test_the_card_says_which_parts_are_missing(text: str, removed: str) -> None:
    card = model_card(replace(FACTS, mask=Mask.parse(6, text)))
    assert f"This is someone/tiny without {removed}. The remaining " in card


QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")


def test_the_launch_of_a_card_heals_on_the_same_text(launch: Command, tmp_path: Path) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    for evaluation in (passage(tmp_path, 2), QUICK):
        ended = launch(*heal, *evaluation)
        assert ended.status == 0, ended.err
    made = ended.result()
    words = launch_words(launched(made, healed=True))
    again = launch(*words, f"paths.results={tmp_path / 'again'}", calibrated=False)
    assert again.status == 0, again.err
    (path,) = (tmp_path / "again").glob("*/result.json")
    assert read_json(path)["heal"]["weights_sha256"] == made["heal"]["weights_sha256"]
    assert "heal" not in launched(made, healed=False)

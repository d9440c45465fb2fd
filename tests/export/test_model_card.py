from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from pruning.core.mask import Mask
from pruning.core.units import bytes_text
from pruning.export.changed_model import summary
from pruning.export.model_card import Facts, Sizes, mergekit, metrics, model_card, ranges

RESULT: dict[str, Any] = {
    "cell": "tiny-perplexity-greedy-k2-s0-12345678",
    "model": {"dtype": "bfloat16"},
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
    hybrid=False,
    mask=Mask(6, (0, 3)),
    sizes=Sizes(1_000_000, 800_000, 2_000_000, 1_600_000),
    commands=["python launch.py k=2 export=DIR"],
    proof="reloaded and found equal",
    result=RESULT,
)


def test_the_card_is_one_that_the_hub_reads() -> None:
    data = ModelCard(model_card(FACTS)).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "someone/tiny",
        "transformers",
        "text-generation",
    )
    assert data.model_name == "tiny-4-of-6-blocks"
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values == {"ppl/heldout": 40.38, "acc/heldout": 0.49, "speed/decode": 100.0}


def test_the_card_has_all_required_parts() -> None:
    text = model_card(FACTS)
    for part in (
        "someone/tiny without 2 of its 6 transformer blocks",
        "Blocks removed, counted from 0: 0, 3.",
        "| parameters | 1,000,000 | 800,000 |",
        "| weights in bfloat16 | 2.0 MB | 1.6 MB |",
        "from 3.0000 to 3.2500 on the calibration data: 16 samples of 256 tokens of pydoc, seed 0",
        "| ppl/heldout | 16.90 ± 0.50 | 40.38 ± 1.25 |",
        "| speed/decode | - | 100.00 |",
        '- `ppl/heldout`: source `"pydoc"`, windows `16`, corpus.join `"\\n\\n"`, SHA-256 `cdcdcdcdcdcdcdcd`',
        "- `acc/heldout`: not recorded",
        "The search did not use these data.",
        "python launch.py k=2 export=DIR",
        "Reloaded and found equal.",
    ):
        assert part in text


HEALED: Any = {
    "settings": {"class": "Full", "lr": 1e-4},
    "source": "pydoc",
    "tokens": 2048,
    "steps": 8,
    "seconds": 3.0,
    "best_step": 8,
    "curve": {"heldout_before": 3.5, "heldout_after": 3.25},
}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (8, "went from 3.5000 to 3.2500 nats per token.\n"),
        (4, "3.2500 nats per token. The weights are those of step 4, after 1,024 tokens"),
        (0, "No step lowered the loss on held-out text (3.5000 nats per token), so the weights from before"),
    ],
)
def test_the_card_says_which_step_of_the_training_was_kept(step: int, said: str) -> None:
    evaluation = RESULT["evaluation"] | {"healed": {"ppl/heldout": 30.0}}
    card = model_card(
        replace(FACTS, healed=HEALED | {"best_step": step}, result=RESULT | {"evaluation": evaluation})
    )
    assert "with all their weights: 2,048 tokens of pydoc, 8 steps" in card
    assert said in card
    assert ("it changed nothing" in card) == (step == 0)


@pytest.mark.parametrize(("folded", "said"), [(None, True), ("m0", False)])
def test_the_card_says_that_no_repair_helped(folded: str | None, said: bool) -> None:
    repair = {"runs": [{"removed": ["b1"], "folded": folded}]}
    card = model_card(replace(FACTS, result=RESULT | {"repair": repair}))
    assert ("repair by linear maps was tried" in card) == said


def test_a_mask_without_a_cell_has_no_measurements() -> None:
    text = model_card(replace(FACTS, result=None))
    assert "The mask was given to the export" in text
    assert "model-index" not in text
    assert ModelCard(text).data.base_model == "someone/tiny"
    assert list(metrics(None)) == []


def test_a_cell_that_was_timed_only_is_not_called_a_mask_without_a_cell() -> None:
    facts = replace(FACTS, result=RESULT | {"evaluation": {"dense": {}, "pruned": {}}})
    assert "Nothing: its cell was evaluated for speed only." in model_card(facts)
    assert summary(facts, Path("out")).startswith(
        "lost    not measured: its cell was evaluated for speed only\n"
    )
    assert summary(replace(facts, result=None), Path("out")).startswith(
        "lost    not measured: the mask does not come"
    )


def test_a_directory_is_no_hub_name() -> None:
    assert ModelCard(model_card(replace(FACTS, base="folder"))).data.base_model is None


def test_licences_are_passed_on() -> None:
    inherited = {"license": "other", "license_name": "terms", "language": "en"}
    data = ModelCard(model_card(replace(FACTS, inherited=inherited))).data
    assert (data.license, data.license_name, data.language) == ("other", "terms", "en")
    assert ModelCard(model_card(replace(FACTS, base="google/gemma-3-270m"))).data.license == "gemma"


def test_the_card_describes_a_compensation() -> None:
    text = model_card(replace(FACTS, scales=[1.25, 1, 1, 1.5, 1, 1]))
    assert "a factor on the residual stream (0: 1.25, 3: 1.5)" in text
    evaluation = RESULT["evaluation"] | {"uncompensated": {"ppl/heldout": 99.0}}
    text = model_card(replace(FACTS, result=RESULT | {"evaluation": evaluation}))
    assert "| metric | dense | pruned | compensated |" in text
    assert "| ppl/heldout | 16.90 ± 0.50 | 99.00 | 40.38 ± 1.25 |" in text


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        ("a1", "the attention of 1 of its 6 transformer blocks"),
        ("m1 m2", "the MLP of 2 of its 6 transformer blocks"),
        ("a1 a2 m0", "the attention of 2 of its 6 transformer blocks and the MLP of 1 of its 6 blocks"),
        ("b0 b5 a1", "2 of its 6 transformer blocks and the attention of 1 other"),
        (
            "b0 a1 a2 m3",
            "1 of its 6 transformer blocks, the attention of 2 others and the MLP of 1 other",
        ),
        ("0 3", "2 of its 6 transformer blocks"),
    ],
)
def test_the_card_says_which_parts_are_missing(text: str, removed: str) -> None:
    card = model_card(replace(FACTS, mask=Mask.parse(6, text), idle=150_000))
    assert f"This is someone/tiny without {removed}. The remaining " in card
    parts = "a" in text or "m" in text
    assert ("| parameters in use | 1,000,000 | 650,000 |" in card) == parts
    assert ("measured on a model in memory that really lacks these parts" in card) == parts
    assert ("| parameters | 1,000,000 | 800,000 |" in card) != parts
    assert ("| parameters in the file | 1,000,000 | 800,000 |" in card) == parts


def test_the_summary_counts_only_parameters_in_use() -> None:
    facts = replace(FACTS, mask=Mask.parse(6, "b0 a3"), idle=150_000)
    assert (
        "gained  3 of 12 sub-layers removed (b0 a3), 1,000,000 -> 650,000 parameters in use (35.0% fewer), "
        "2.0 MB -> 1.6 MB in bfloat16" in summary(facts, Path("out"))
    )


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [((0, 3), [(1, 3), (4, 6)]), ((5,), [(0, 5)]), ((1, 2, 4), [(0, 1), (3, 4), (5, 6)]), ((), [(0, 6)])],
)
def test_ranges_of_kept_blocks(dropped: tuple[int, ...], kept: list[tuple[int, int]]) -> None:
    assert ranges(Mask(6, dropped)) == kept


def test_the_mergekit_file_makes_the_same_cut() -> None:
    data = yaml.safe_load(mergekit(FACTS))
    assert (data["merge_method"], data["dtype"]) == ("passthrough", "bfloat16")
    layers = [i for part in data["slices"] for i in range(*part["sources"][0]["layer_range"])]
    assert layers == [1, 2, 4, 5]
    assert {part["sources"][0]["model"] for part in data["slices"]} == {"someone/tiny"}
    assert "layer_types" not in mergekit(FACTS)
    assert "mergekit does not change config.layer_types" in mergekit(replace(FACTS, hybrid=True))
    assert "compensation" in mergekit(replace(FACTS, scales=[1.0] * 6))


def test_sizes_are_readable() -> None:
    assert [bytes_text(count) for count in (226_548_864, 2_500_000_000)] == ["226.5 MB", "2.50 GB"]

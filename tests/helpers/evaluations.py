"""Helpers for tests of evaluations: forward passes on a saved model, made-up items and tasks, and real data."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.evaluation import Measured
from pruning.models.handle import Model

ROOT = Path(__file__).parents[2]


def forward_of(folder: Path) -> Forward:
    return Forward(settings(folder).load())


def settings(folder: Path) -> Model:
    return Model("tiny", "local", str(folder), dtype="float32")


def tokenizer_of(folder: Path) -> Any:
    return settings(folder).tokenizer


def measured(evaluation: Any, folder: Path, mask: Mask, forward: Forward | None = None) -> Measured:
    """The measurement of an evaluation's only metric on a saved model."""
    ((name, data),) = evaluation.data(tokenizer_of(folder)).items()
    found: Measured = evaluation.measure(forward or forward_of(folder), name, data, mask)
    return found


def lm_eval_on(
    folder: Path, task: Any, index: TaskManager | None = None, dtype: str = "float32", **options: Any
) -> Any:
    """The results of lm-eval itself for a checkpoint on one task."""
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": dtype},
        tasks=[task],
        task_manager=index or TaskManager(include_defaults=False),
        **{"batch_size": 16, "device": "cpu", "bootstrap_iters": 10, **options},
    )


def items_file(path: Path, count: int = 12, seed: int = 0) -> Path:
    """Write a file of multiple-choice items with made-up sentences. As in benchmarks, one item has equal choices."""
    rng = random.Random(seed)
    words = [
        *("the", "a", "red", "stone", "river", "quick", "slow"),
        *("bird", "over", "under", "sees", "makes", "and"),
    ]

    def sentence(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    lines = []
    for number in range(count):
        choices = [sentence(rng.randint(1, 5)) + f" {n}" for n in range(rng.randint(2, 4))]
        if number == 3:
            choices = [*choices[:2], choices[0]]
        line = {"question": sentence(9), "choices": choices, "answer": rng.randrange(len(choices))}
        lines.append(line | {"id": number})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    return path


def shared_data(name: str) -> Path:
    """A file of real data in DEPTH_PRUNING_DATA, by default ../shared/data. If it is absent, skips the test."""
    folder = Path(os.environ.get("DEPTH_PRUNING_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}")
    return folder / name


def with_end(folder: Path, copy: Path) -> Path:
    """Copy a saved model and give its tokenizer an end of text, which lm-eval itself requires; returns the copy."""
    shutil.copytree(folder, copy)
    own = AutoTokenizer.from_pretrained(copy)
    own.eos_token = own.convert_ids_to_tokens(0)
    own.save_pretrained(copy)
    return copy


def samples_of(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """lm-eval's samples in the kept files of a measurement."""
    (packed,) = [content for name, content in files.items() if name == "samples.jsonl.gz"]
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def own_tasks(folder: Path) -> TaskManager:
    """An index with four tasks on a local file, a group of two of them, and lm-eval's own tasks on ARC."""
    path = items_file(folder / "items.jsonl")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}}
    common |= {
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
    }
    common |= {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices"}
    metrics = {"normed": ["acc", "acc_norm"], "plain": ["acc"], "other": ["brier_score"]}
    metrics["more"] = ["acc", "brier_score"]
    for name, own in metrics.items():
        wanted = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in own]
        task = common | {"task": name, "doc_to_target": "answer", "metric_list": wanted}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["normed", "plain"]}))
    builtin = Path(lm_eval.__file__).parent / "tasks" / "arc"
    return TaskManager(include_path=[str(folder), str(builtin)], include_defaults=False)


def questions_file(path: Path, count: int = 8, seed: int = 0) -> Path:
    """Write a file of made-up questions, with answers that a random model does not generate."""
    rng = random.Random(seed)
    words = ["the", "red", "stone", "river", "quick", "bird", "over", "sees", "makes", "cold"]
    lines = [
        {"question": " ".join(rng.choices(words, k=10)) + f" {number}?", "answer": f"answer {number}"}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def written_tasks(folder: Path) -> TaskManager:
    """An index with the tasks of `own_tasks`, GSM8K, two generation tasks (one with two filters), and two groups."""
    path = questions_file(folder / "questions.jsonl")
    own_tasks(folder)
    data = {"data_files": {"test": str(path), "train": str(questions_file(folder / "train.jsonl", 5, 1))}}
    common = {
        "dataset_path": "json",
        "dataset_kwargs": data,
        "test_split": "test",
        "fewshot_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 6},
    }
    last = {"name": "last-word", "filter": [_regex(r"(\S+)\s*$"), {"function": "take_first"}]}
    first = {"name": "first-letter", "filter": [_regex(r"(\w)"), {"function": "take_first"}]}
    written = [
        common | {"task": "filtered", "filter_list": [last, first], "num_fewshot": 2},
        common | {"task": "unfiltered"},
        {"group": "writing", "task": ["filtered", "unfiltered"]},
        {"group": "mixed", "task": ["normed", "unfiltered"]},
    ]
    for one in written:
        (folder / f"{one.get('group', one['task'])}.yaml").write_text(yaml.safe_dump(one))
    builtin = [str(Path(lm_eval.__file__).parent / "tasks" / name) for name in ("gsm8k", "arc")]
    return TaskManager(include_path=[str(folder), *builtin], include_defaults=False)


def _regex(pattern: str) -> dict[str, Any]:
    return {"function": "regex", "regex_pattern": pattern}

"""What a launch refuses before anything is computed: the error names the setting, its value, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.sources import pydoc
from tests.conftest import Command
from tests.helpers.architectures import build

LINEAR = ("k=2", "compensation=linear")
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "both sizes": (("k=2", "ratio=0.5"), r"ratio=0\.5 and k=2"),
    "no size": (("ratio=null",), "ratio=None and k=None"),
    "ratio": (("ratio=1.5",), r"ratio=1\.5"),
    "no block": (("ratio=0.01",), r"ratio=0\.01"),
    "k of 0": (("k=0",), "k=0"),
    "dashes": (("--k=3",), "Write k=3"),
    "resolve": (("--resolve", "k=1"), "--resolve only changes what --cfg prints, .* add --cfg job"),
    "spaces": (("k", "=", "3"), "Write k=3"),
    "dots": (("k=1", "seed=0..2"), r"range\(0,3\)"),
    "all blocks": (("k=6",), "k = 6"),
    "protected": (("k=4", "protect.first=2", "protect.last=2"), "k = 4 .* 6, .* 2 "),
    "kind": (("objective=margin", "calibration=pydoc"), "calibration=pydoc"),
    "no file": (("calibration=text_file", "calibration.path=nowhere.txt"), r"nowhere\.txt"),
    "no path": (("calibration=text_file",), r"calibration\.path=FILE"),
    "no model": (("model.path=nowhere",), r"model\.path=nowhere"),
    "dtype": (("model.dtype=float8",), r"model\.dtype 'float8'"),
    "too few": (("calibration.samples=100000",), r" 100000 .*calibration\.samples"),
    "too few items": (("objective=margin", "calibration.samples=9999"), r"calibration\.samples=9999"),
    "seed": (("seed=-1",), "seed=-1"),
    "study": (("study=../../evil",), r"study='\.\./\.\./evil'"),
    "results": (("paths.results=/proc/nowhere",), "/proc/nowhere"),
    "model": (("model=lama3",), r"model 'lama3'.* llama3.*\?"),
    "racing": (("k=2", "racing.delta=2"), r"racing\.delta=2"),
    "budget": (("k=3", "max_evaluations=0"), "max_evaluations=0"),
    "out of reach": (("algo=exhaustive", "algo.limit=10", "k=3"), r"algo\.limit=10"),
    "unit": (("unit=layers", "k=1"), "unit 'layers'"),
    "sub-layers by k": (("unit=sublayer", "k=40"), "k = 40"),
    "latency by k": (("unit=sublayer", "budget=latency", "k=2"), "budget=latency and k=2"),
    "latency": (("budget=latency", "ratio=0.34", "latency.tokens=4096"), r"latency\.tokens=4096"),
    "repair in the search": ((*LINEAR, "compensation.search=true"), r"compensation\.search"),
    "ridge": ((*LINEAR, "compensation.ridge=[0]"), r"compensation\.ridge=\[0\.0\]"),
}
SWEPT: dict[str, tuple[tuple[str, ...], str]] = {
    "k": (("k=0,2,6", "algo=one_shot"), "k=0"),
    "evaluation": (("k=1", "eval.seed=0,1"), "in eval,"),
    "healing": (("k=1", "heal=none,lora"), "in heal,"),
    "no healing": (("k=1", "heal=lora,none"), "in heal,"),
    "results": (("k=1", "paths.results=a,b"), "in paths,"),
    "nothing": (("k=1", "model=glob(zz*)"), "no cell "),
}


def check_refused(launch: Command, words: tuple[str, ...], named: str) -> None:
    ended = launch(*words, calibrated=not any(word.startswith("calibration") for word in words))
    assert re.search(named, ended.err)
    assert ended.status in (1, 2)
    assert "Traceback" not in ended.err
    assert ended.all() == []
    assert not list(ended.results.glob("*/trace.jsonl")), "no search was started"


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named_before_anything_is_computed(launch: Command, case: str) -> None:
    check_refused(launch, *REFUSED[case])
    check_refused(launch, ("-m", *REFUSED[case][0]), REFUSED[case][1])


@pytest.mark.parametrize("case", SWEPT)
def test_a_sweep_that_would_lose_a_cell_is_refused(launch: Command, case: str) -> None:
    words, named = SWEPT[case]
    check_refused(launch, ("-m", *words), named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("unit=attention", "ratio=0.9"), r"ratio=0\.9 .*protect\.first"),
        ((*LINEAR, "calibration.samples=1"), r" 2 .*calibration\.samples"),
    ],
)
def test_what_the_loaded_model_cannot_do_fails_its_cell_before_the_search(
    launch: Command, words: tuple[str, ...], named: str
) -> None:
    ended = launch(*words)
    assert ended.status != 0
    assert re.search(named, ended.err + ended.out)
    assert not list(ended.results.glob("*/mask.json"))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (LINEAR, "compensation=none"),
        (("experiment=compress", "ratio=0.25", "unit=sublayer", "compensation=none"), "unit=block"),
    ],
)
def test_a_model_with_parallel_parts_is_refused_with_what_to_do(
    launch: Command, tokenizer: Any, tmp_path: Path, words: tuple[str, ...], remedy: str
) -> None:
    model = build("gpt_neox")
    model.resize_token_embeddings(512)
    model.save_pretrained(tmp_path / "parallel")
    tokenizer.save_pretrained(tmp_path / "parallel")
    data = (
        ("calibration=pydoc", "heal.source=pydoc", "eval=embedded") if "experiment=compress" in words else ()
    )
    ended = launch(*words, *data, f"model.path={tmp_path / 'parallel'}")
    assert ended.status != 0
    assert remedy in ended.err + ended.out
    assert not list(ended.results.glob("*/trace.jsonl"))


def test_calibration_data_that_is_evaluated_on_is_an_error(launch: Command, tmp_path: Path) -> None:
    (tmp_path / "leak.txt").write_text("\n\n".join(pydoc("heldout")))
    sizes = ("eval.samples=400", "calibration.samples=20")
    words = ("calibration=text_file", "calibration.path=leak.txt", *sizes)
    check_refused(launch, words, "ppl/heldout")

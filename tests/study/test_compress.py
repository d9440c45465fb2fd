"""`experiment=compress` and `depth-pruning compress`: what it will take, the models side by side, the export."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pruning.calibration import sources
from pruning.core.errors import InputError, UnreachableError
from pruning.core.storage import read_json
from pruning.healing.heal_settings import NoHealing
from pruning.runs import forecast
from pruning.study import compress, guide
from pruning.study.guide import stages, table
from tests.conftest import Command, Ended
from tests.helpers.wikipedia import use_dump

TINY = (
    *("experiment=compress", "ratio=0.34", "algo=one_shot", "calibration.samples=8", "calibration.length=24"),
    *("eval=embedded", "eval.samples=2", "eval.length=32", "eval.items=6"),
    *("heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.eval_every=4", "heal.heldout=4"),
    "heal.lr=0.003",
)
QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.new_tokens=2", "eval.repeats=1", "eval.warmup=0")
OFFLINE = ("calibration=pydoc", "heal.source=pydoc", "eval.texts=null")


@pytest.fixture
def compressed(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_map_is_kept: None
) -> Command:
    """`launch.py experiment=compress` on the tiny model and on a Wikipedia that needs no network."""
    use_dump(monkeypatch, tmp_path)
    monkeypatch.setattr(guide, "SPEED", QUICK)

    def command(*words: str) -> Ended:
        chosen = {word.partition("=")[0] for word in words}
        kept = [word for word in TINY if word.partition("=")[0] not in chosen]
        if "heal=none" in words:
            kept = [word for word in kept if not word.startswith("heal.")]
        return launch(*kept, *words, calibrated=False)

    return command


def rows(out: str) -> dict[str, list[str]]:
    """The rows of the table of models: name -> the entries."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.partition("\nquality ")[0].splitlines()]
    return {
        line[0]: line[1:] for line in lines if line[0] in ("model", "dense", "pruned", "repaired", "healed")
    }


def test_the_table_has_every_model_with_what_was_measured(compressed: Command, tmp_path: Path) -> None:
    ended = compressed(f"export={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    result, shown = ended.result(), rows(ended.out)
    evaluation = result["evaluation"]
    sources = {"dense": "dense", "pruned": "uncompensated", "repaired": "pruned", "healed": "healed"}
    values = {which: evaluation[source] for which, source in sources.items()}
    metrics = {
        "novel perplexity": "ppl/novel",
        "held-out perplexity": "ppl/heldout",
        "wikipedia_sample perplexity": "ppl/wikipedia_sample",
        "held-out accuracy": "acc/heldout",
    }
    assert shown["model"] == [*metrics, "prompt tokens/s", "new tokens/s", "parameters", "size"]
    for which, measured in values.items():
        for entry, name in zip(shown[which], metrics.values(), strict=False):
            value, error = (float(part.replace(",", "")) for part in entry.split("±"))
            assert value == pytest.approx(measured[name], abs=0.006)
            assert error == pytest.approx(measured[f"{name}/stderr"], abs=0.006)
    sizes = evaluation["speed"]["sizes"]
    assert shown["dense"][-2] == f"{sizes['dense']['parameters']:,}"
    assert shown["healed"][4:] == shown["pruned"][4:] != shown["dense"][4:]
    assert re.search(r"^healed .*dense", ended.out, re.M)
    for label, word in (
        ("novel perplexity", "within|worse|better"),
        ("choice", "tied|scored"),
    ):
        assert re.search(rf"^  {label} .*({word})", ended.out, re.M)
    assert result["calibration"]["source"] == "pydoc + wikipedia_sample"
    assert result["heal"]["source"] == "embedded"
    assert "guide" not in result["config"], "the table does not make another cell"
    assert (result["config"]["eval"]["option"], ended.err.count("cells: ")) == ("embedded", 1)
    assert "speed" in evaluation["settings"]
    assert re.search(r"^took +.+ \(forecast .+\), memory .+ \(forecast .+\)$", ended.out, re.M)
    (took,) = (read_json(path) for path in ended.results.glob("plans/*.took.json"))
    assert took["forecast"]["seconds"] == pytest.approx(sum(took["forecast"]["parts"].values()))
    assert min(took["took"].values()) > 0

    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sum(weight.numel() for weight in written.parameters()) == sizes["pruned"]["parameters"]
    for place in (tmp_path / "out" / "README.md", ended.results / result["cell"]):
        assert str(place) in ended.out
        assert place.exists()


def test_a_longer_training_replaces_the_model_of_the_shorter_one(compressed: Command) -> None:
    first = compressed(*OFFLINE).result()
    longer = compressed(*OFFLINE, "heal.tokens=4096")
    assert longer.status == 0, longer.err
    result = longer.result()
    record = read_json(longer.results / result["cell"] / "smaller" / "depth_pruning.json")
    assert record["healed"] == result["heal"]["weights_sha256"] != first["heal"]["weights_sha256"]


def test_what_was_decided_for_the_minutes_is_kept(
    compressed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run finds the first one's cell, whatever the machine can do then."""

    def smaller(prepared: Any, machine: Any, speed: Any, minutes: float | None) -> Any:
        assert minutes == 30
        few = replace(prepared.cell.calibration, samples=4)
        cell = forecast.with_settings(prepared.cell, "calibration", few)
        return forecast.with_settings(cell, "heal", NoHealing(), "none"), None, ["4 samples", "no training"]

    words = (*OFFLINE, "minutes=30", "compensation=none", "tracker=none")
    with monkeypatch.context() as patch:
        patch.setattr(forecast, "decided", smaller)
        first = compressed(*words)
    assert first.status == 0, first.err
    assert "decided  4 samples\ndecided  no training\n" in first.out
    result = first.result()
    assert (result["calibration"]["samples"], "heal" in result) == (4, False)
    assert (first.results / result["cell"] / "smaller" / "config.json").exists()
    again = compressed(*words)
    assert (again.status, "takes" in again.out, len(again.all())) == (0, False, 1)


@pytest.mark.parametrize(("searched", "trained"), [(1e-9, True), (1740.0, False)])
def test_the_training_is_decided_again_after_the_search(
    compressed: Command, monkeypatch: pytest.MonkeyPatch, searched: float, trained: bool
) -> None:
    """The clock says what has passed before the search, after it, and at the end."""
    times = iter([1e-9, searched, 1790.0])
    monkeypatch.setattr(guide.Watch, "seconds", lambda _: next(times))
    words = (*OFFLINE, "minutes=30", "tracker=none")
    first = compressed(*words)
    assert first.status == 0, first.err
    result = first.result()
    assert ("heal" in result) == trained
    assert ("no training, because the search took 29 min" in first.out) == (not trained)
    assert "took    29.8 min (forecast " in first.out
    again = compressed(*words)
    assert (again.status, "takes" in again.out, again.result()["mask"]) == (0, False, result["mask"])
    assert ("heal" in again.result()) == trained


def test_nothing_runs_before_the_forecast(compressed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise InputError("no forecast")

    monkeypatch.setattr("pruning.runs.forecast.Machine.forecast", stop)
    ended = compressed()
    assert (ended.status, ended.err.splitlines()[-1]) == (2, "no forecast")
    assert not list(ended.results.glob("*/trace.jsonl"))


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (("heal=none", "compensation=none"), ["dense", "pruned"]),
        (("unit=sublayer", "heal=lora", "heal.source=embedded"), ["dense", "pruned", "repaired", "healed"]),
    ],
)
def test_every_part_can_be_chosen(compressed: Command, words: tuple[str, ...], models: list[str]) -> None:
    ended = compressed(*words)
    assert ended.status == 0, ended.err
    assert [name for name in rows(ended.out) if name != "model"] == models
    assert [which for which, _ in stages(ended.result())] == models
    assert table(ended.result()) in ended.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-m", "seed=0,1", *OFFLINE), "guide=true"),
        (("launcher=processes",), "launcher=local"),
        (("minutes=0",), "minutes=0"),
        (("guide=false", "minutes=5"), "minutes=5"),
    ],
)
def test_what_cannot_be_guided_is_refused(compressed: Command, words: tuple[str, ...], named: str) -> None:
    ended = compressed(*words)
    assert named in ended.err
    assert not list(ended.results.glob("*/result.json"))


def test_without_a_network_it_says_which_text_needs_none(
    compressed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> Path:
        raise UnreachableError("gensim==4.4.0 could not be fetched by pip (no network).")

    monkeypatch.setattr(sources, "extract", unreachable)
    ended = compressed("calibration.seed=7")  # samples that no other test of this process has drawn
    assert ended.status == 2, ended.out
    assert "calibration=pydoc heal.source=pydoc eval=heldout" in ended.err
    assert not list(ended.results.glob("*/result.json"))


def command(model: Path, results: Path, out: Path) -> list[str]:
    script = f"from pruning import commands; from pruning.study import guide; guide.SPEED = {QUICK}; commands.main()"
    sizes = [word for word in TINY if not word.startswith(("experiment=", "heal.eval_every="))]
    words = [
        *sizes,
        "heal.eval_every=1",
        *OFFLINE,
        f"paths.results={results}",
        "tracker=none",
        "model.dtype=float32",
    ]
    return [sys.executable, "-c", script, "compress", str(model), str(out), *words]


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_model(model_folder: Path, tmp_path: Path) -> None:
    whole = command(model_folder, tmp_path / "whole", tmp_path / "a")
    subprocess.run(whole, check=True, capture_output=True, cwd=tmp_path)
    killed = command(model_folder, tmp_path / "killed", tmp_path / "b")
    checkpoints = "*/healed/*/**/step-*.pt"
    with subprocess.Popen(
        killed, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not list((tmp_path / "killed").glob(checkpoints)):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "b").exists()
    again = subprocess.run(killed, check=True, capture_output=True, cwd=tmp_path, text=True)
    assert "search" not in again.stdout.partition("memory")[0], "what is done is not forecast"
    results = [read_json(next((tmp_path / name).glob("*/result.json"))) for name in ("whole", "killed")]
    assert results[0]["heal"]["weights_sha256"] == results[1]["heal"]["weights_sha256"]
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "ab"]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_the_words_of_the_command(tmp_path: Path) -> None:
    (odd := tmp_path / 'a "model", 1').mkdir()
    words = compress.grid_words([str(odd), "out dir", "ratio=0.1", "heal=none", "--cfg"])
    escaped = str(odd).replace('"', '\\"')
    assert words == [
        *("experiment=compress", "model=local", f'model.path="{escaped}"', 'export="out dir"'),
        *("ratio=0.1", "heal=none", "--cfg"),
    ]
    assert compress.grid_words(["smollm2"]) == ["experiment=compress", "model=smollm2"]
    for wrong, named in ((["smolm"], "'smolm'.*smollm2"), (["smollm2", "a", "b"], "3 places")):
        with pytest.raises(InputError, match=named):
            compress.grid_words(wrong)


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["smollm2", "out", "--k", "3"], "k=3"),
        (["smollm2", "k", "=", "3"], "k=3"),
        (["smollm2", "out", "ratio=", "0.1"], "ratio=0.1"),
        (["smollm2", "out", "more"], "3 places"),
    ],
)
def test_a_setting_with_dashes_or_spaces_gets_its_cure(words: list[str], cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        compress.grid_words(words)

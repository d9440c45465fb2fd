"""The pruned model in memory is the exported one; both are timed in turn; sizes are those of the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pruning.core.mask import Mask
from pruning.evaluation import speed
from pruning.evaluation.speed import Speed, flat
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.removal import blocks_removed, smaller_config
from tests.conftest import N_BLOCKS, Command
from tests.helpers.architectures import build
from tests.helpers.evaluations import settings

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79]])
PROMPT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False}
SMALL = Speed([1, 2], [16], new_tokens=3, repeats=3, warmup=1)


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_are_those_of_the_exported_files(tmp_path: Path, tied: bool) -> None:
    model, mask = build("llama"), Mask(N_BLOCKS, (1, 4))
    model.config.tie_word_embeddings = tied
    if tied:
        model.tie_weights()
    model.save_pretrained(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    facts = export(Request(settings(tmp_path / "dense"), mask, tmp_path / "smaller", verify=False))
    with blocks_removed(model, mask, smaller_config(model, mask)):
        parameters, size = speed.weight(model)
    assert parameters == facts.sizes.parameters
    file = tmp_path / "smaller" / "model.safetensors"
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little") + 8
    assert size == file.stat().st_size - header


def test_models_take_turns_and_the_first_runs_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def context(which: str) -> Any:
        @contextmanager
        def entered() -> Iterator[Any]:
            order.append(which)
            yield build("llama")

        return entered

    def timed(*_: Any) -> dict[str, float]:
        return {"first_token_seconds": float(len(order))}

    monkeypatch.setattr(speed, "_timed", timed)
    contexts = {which: context(which) for which in ("dense", "pruned")}
    measured = speed.alternating(contexts, 1, 8, SMALL)
    assert order == ["dense", "pruned", "pruned", "dense", "dense", "pruned", "pruned", "dense"]
    assert measured == {
        "dense": {"first_token_seconds": [4.0, 5.0, 8.0]},
        "pruned": {"first_token_seconds": [3.0, 6.0, 7.0]},
    }


def test_times_are_of_the_prompt_and_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.0, 12.5, 13.0, 14.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    timed = speed._timed(build("llama"), IDS.repeat(2, 1), 4)
    assert timed["first_token_seconds"] == 2.0
    assert timed["prefill_per_second"] == 20 / 2
    assert timed["decode_per_second"] == 2 * 3 / 2  # three more tokens for each of two rows in two seconds


def test_the_peak_counts_only_the_extra_memory() -> None:
    for _ in range(2):  # the second time, the C library has freed memory that it could use again
        peak = speed.Peak(torch.device("cpu"))
        if peak.extra() is None:
            pytest.skip("this system does not report the peak")
        blocks = [torch.ones(1 << 18, dtype=torch.uint8) for _ in range(256)]
        del blocks
        extra = peak.extra()
        assert extra is not None
        assert 48 << 20 < extra < 512 << 20


def test_medians_with_quartiles_and_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"prefill_per_second": [9.0, 10.0, 30.0], "extra_memory": [100.0, 300.0, 200.0]}
    monkeypatch.setattr(speed, "alternating", lambda models, *_: {which: dict(values) for which in models})
    monkeypatch.setattr(speed, "weight", lambda _: (10, 1000))
    timed = Speed([1], [16]).timings({"one": nullcontext})
    assert timed["sizes"] == {"one": {"parameters": 10, "bytes": 1000}}
    (run,) = timed["runs"]
    assert run["one"] == {
        "prefill_per_second": {"median": 10.0, "low": 9.5, "high": 20.0},
        "peak_memory": 1300,
    }


@pytest.mark.slow
def test_speed_goes_to_result_mlflow_and_table(launch: Command) -> None:
    from mlflow import MlflowClient

    launch("k=2")
    words = ["eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[16]", "eval.new_tokens=3", "eval.repeats=2"]
    ended = launch("k=2", *words, tracker="mlflow")
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["evaluation"]["pruned"].keys() >= {"ppl/heldout", "acc/heldout"}, "earlier metrics are kept"
    record = result["evaluation"]["speed"]
    (run,) = record["runs"]
    assert (run["batch"], run["prompt"], run["new_tokens"]) == (1, 16, 3)
    medians = {which: run[which]["decode_per_second"]["median"] for which in ("dense", "pruned")}
    assert run["ratio"]["decode"] == medians["pruned"] / medians["dense"]
    names = dict(flat(record))
    assert names["speed/b1-p16/decode_per_second/pruned"] == medians["pruned"]
    assert names["speed/parameters/dense"] > names["speed/parameters/pruned"]
    client = MlflowClient(tracking_uri=f"sqlite:///{ended.results / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "depth-pruning"]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.data.metrics == tracked.data.metrics | {n: pytest.approx(v) for n, v in names.items()}
    ratio = run["ratio"]
    assert f"{ratio['prefill']:.2f}x prefill, {ratio['decode']:.2f}x decode" in " ".join(ended.out.split())

"""The check of a serving program: the same model passes, another fails, and both programs' answers are read."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import serve_check

ROWS = [[5, 9, 14, 3, 77, 12], [8, 1, 2]]


def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["serve_check", *words])
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as end:
        serve_check.main()
    assert isinstance(end.value.code, int)
    return end.value.code, caplog.text


def test_log_probabilities_are_those_of_each_next_token(model_folder: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    for row, found in zip(ROWS, serve_check.transformers(str(model_folder), "float32", ROWS), strict=True):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([row])).logits[0]
        plain = [float(logits[i].log_softmax(-1)[row[i + 1]]) for i in range(len(row) - 1)]
        assert found == pytest.approx(plain, abs=1e-5)


def test_the_same_model_passes_and_another_fails(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = AutoModelForCausalLM.from_pretrained(model_folder)
    other.model.layers[1], other.model.layers[2] = other.model.layers[2], other.model.layers[1]
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(serve_check, "find_spec", lambda _: True)
    monkeypatch.setattr(serve_check, "LENGTH", 40)
    words = ("--model", str(model_folder), "--engine", "vllm", "--dtype", "float32")
    for answering, status in ((model_folder, 0), (tmp_path / "other", 1)):
        monkeypatch.setitem(
            serve_check.ENGINES, "vllm", lambda _, *rest, a=answering: serve_check.transformers(str(a), *rest)
        )
        ended, text = run(monkeypatch, caplog, *words)
        assert ended == status, text
    assert "ok: vllm against transformers, float32: 156 tokens" in text
    assert "FAILED: vllm against transformers" in text


def test_without_the_program_or_a_model_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve_check, "find_spec", lambda _: None)
    status, text = run(monkeypatch, caplog, "--model", str(tmp_path), "--engine", "sglang")
    assert status == 2
    assert "sglang is not installed" in text
    monkeypatch.setattr(serve_check, "find_spec", lambda _: True)
    status, text = run(monkeypatch, caplog, "--model", str(tmp_path))
    assert status == 2
    assert str(tmp_path) in text


ANSWERS = [[-float(token) / 10 for token in row[1:]] for row in ROWS]


def test_the_answers_of_vllm_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM documents them: a list with None for the first token, then {token id: Logprob} for each other."""

    def generate(prompts: Any, wanted: Any) -> Any:
        assert wanted == {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        best = SimpleNamespace(logprob=0.0)  # the most likely token is listed too
        for prompt in prompts:
            tokens = prompt["prompt_token_ids"][1:]
            found = [{-1: best, token: SimpleNamespace(logprob=-token / 10)} for token in tokens]
            yield SimpleNamespace(prompt_logprobs=[None, *found])

    module = ModuleType("vllm")
    engine = SimpleNamespace(generate=lambda *given: list(generate(*given)))
    module.__dict__.update(LLM=lambda **_: engine, SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", module)
    assert serve_check.vllm("m", "float32", ROWS) == ANSWERS


def test_the_answers_of_sglang_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SGLang documents them: (log-probability, token id, text) for each token, None for the first."""

    def generate(input_ids: Any, **settings: Any) -> Any:
        assert settings["return_logprob"] is True
        assert settings["logprob_start_len"] == 0
        rows = [[(None, row[0], None), *((-t / 10, t, None) for t in row[1:])] for row in input_ids]
        return [{"meta_info": {"input_token_logprobs": row}} for row in rows]

    module, ended = ModuleType("sglang"), []
    engine = SimpleNamespace(generate=generate, shutdown=lambda: ended.append(True))
    module.__dict__.update(Engine=lambda **_: engine)
    monkeypatch.setitem(sys.modules, "sglang", module)
    assert serve_check.sglang("m", "float32", ROWS) == ANSWERS
    assert ended == [True]

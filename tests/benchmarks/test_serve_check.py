"""The check of a serving program: the same model passes, and another fails."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import serve_check
from benchmarks.serve_check import PIECE, log_likelihoods


def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["serve_check", *words])
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as end:
        serve_check.main()
    assert isinstance(end.value.code, int)
    return end.value.code, caplog.text


def test_log_likelihoods_are_those_of_the_pieces_after_their_contexts(model_folder: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    row = torch.randint(3, 97, (1, 2 * PIECE + 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = module(input_ids=row).logits[0, :-1].log_softmax(-1)
    tokens = logits.gather(1, row[0, 1:, None])[:, 0]
    plain = [tokens[PIECE - 1 : 2 * PIECE - 1].mean(), tokens[2 * PIECE - 1 :].mean()]
    found = log_likelihoods("hf", str(model_folder), "float32", row.tolist())
    assert found == pytest.approx(np.array(plain), abs=1e-5)


def test_the_same_model_passes_and_another_fails(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = AutoModelForCausalLM.from_pretrained(shutil.copytree(model_folder, tmp_path / "other"))
    other.model.layers[1], other.model.layers[2] = other.model.layers[2], other.model.layers[1]
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(serve_check, "find_spec", lambda _: True)
    monkeypatch.setattr(serve_check, "LENGTH", 40)
    words = ("--model", str(model_folder), "--dtype", "float32")
    for served, status in ((model_folder, 0), (tmp_path / "other", 1)):

        def answered(program: str, model: str, *rest: Any, served: Path = served) -> Any:
            return log_likelihoods("hf", model if program == "hf" else str(served), *rest)

        monkeypatch.setattr(serve_check, "log_likelihoods", answered)
        ended, text = run(monkeypatch, caplog, *words)
        assert ended == status, text
    assert "ok: vllm against transformers, float32: 16 pieces" in text
    assert "FAILED: vllm against transformers" in text


def test_without_the_program_or_a_model_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for installed, named in ((None, "sglang is not installed"), (True, str(tmp_path))):
        monkeypatch.setattr(serve_check, "find_spec", lambda _, installed=installed: installed)
        status, text = run(monkeypatch, caplog, "--model", str(tmp_path), "--engine", "sglang")
        assert status == 2
        assert named in text

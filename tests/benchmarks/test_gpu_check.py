"""The check of a GPU node: the same code on the CPU, and its message without a GPU."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check


def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["gpu_check", *words])
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as end:
        gpu_check.main()
    assert isinstance(end.value.code, int)
    return end.value.code, caplog.text


@pytest.mark.slow
def test_all_checks_pass_on_the_cpu(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    status, text = run(monkeypatch, caplog, "--device", "cpu", "--model", str(model_folder))
    assert status == 0, text
    assert f"{model_folder}: perplexity" in text


def test_a_check_that_fails_is_named_and_ends_in_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = torch.device("cpu")
    monkeypatch.setattr(
        gpu_check, "checks", lambda *_: [("plain", partial(gpu_check.equal, where, torch.float32))]
    )
    monkeypatch.setattr(gpu_check, "TOLERANCE", {torch.float32: 0.0})
    status, text = run(monkeypatch, caplog, "--device", "cpu")
    assert status == 1
    assert "FAILED: plain" in text


def test_without_a_gpu_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, text = run(monkeypatch, caplog)
    assert status == 2
    assert "--device cpu" in text

"""The perplexity of the dense model's continuations equals a plain computation; what is kept can be read again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import Mask
from pruning.core.records import METRIC, read_continuations
from pruning.evaluation.generation import (
    Generation,
    Prompts,
    Written,
    measure_continuations,
    repeated,
    same_start,
)
from pruning.evaluation.text_overlap import check_disjoint
from pruning.models.sublayers import masked
from pruning.runs.measurements import Evaluator, measurement_path
from pruning.runs.prepare import Reader, check_evaluation
from tests.conftest import N_BLOCKS
from tests.helpers.evaluations import forward_of, tokenizer_of
from tests.helpers.tokens import written

MASK = Mask(N_BLOCKS, (1, 4))
DENSE = Mask(N_BLOCKS)
SETTINGS = Generation(prompts=5, prompt_tokens=12, continuation_tokens=10, batch_size=2)


def prompts(folder: Path, settings: Generation = SETTINGS) -> Prompts:
    (data,) = settings.data(tokenizer_of(folder)).values()
    assert isinstance(data, Prompts)
    return data


def evaluated(folder: Path, results: Path) -> tuple[dict[str, Any], dict[str, Any], Path, Path]:
    """The metrics of the dense model and of a mask, and the files of their measurements."""
    data, forward = {METRIC: prompts(folder)}, forward_of(folder)
    places = {METRIC: results / "dense"}, {METRIC: results / "pruned"}
    dense = Evaluator(SETTINGS, data, forward, places[0])
    known = {METRIC: measurement_path(places[0][METRIC], DENSE)}
    pruned = Evaluator(SETTINGS, data, forward, places[1], dense=known)
    return dense(DENSE).metrics, pruned(MASK).metrics, dense.path(METRIC, DENSE), pruned.path(METRIC, MASK)


def losses(module: Any, prompt: list[int], continuation: list[int]) -> list[float]:
    """The negative log-likelihood of each token of a continuation, from one plain pass."""
    ids = torch.tensor([[*prompt, *continuation]])
    with torch.no_grad():
        logs = module(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    return [-float(logs[len(prompt) + n - 1, token]) for n, token in enumerate(continuation)]


def test_the_perplexity_is_that_of_the_dense_models_samples(model_folder: Path, tmp_path: Path) -> None:
    dense, pruned, dense_file, pruned_file = evaluated(model_folder, tmp_path)
    kept = read_continuations(dense_file)
    assert kept is not None
    forward, data = forward_of(model_folder), prompts(model_folder)
    rows = [list(row.input_ids) for row in data.windows.rows]
    for metrics, mask in ((dense, DENSE), (pruned, MASK)):
        with masked(forward.model.module, mask):
            each = [losses(forward.model.module, *pair) for pair in zip(rows, kept["sampled"], strict=True)]
        mean = np.mean([value for one in each for value in one])
        assert metrics[METRIC] == pytest.approx(math.exp(mean), rel=1e-5)
        assert metrics[f"{METRIC}/stderr"] > 0
    assert pruned[METRIC] > dense[METRIC]
    assert {len(one) for one in kept["sampled"]} <= set(range(1, 11))
    smaller = read_continuations(pruned_file)
    assert smaller is not None
    assert "sampled" not in smaller


def test_the_greedy_continuations_are_compared_and_kept(model_folder: Path, tmp_path: Path) -> None:
    dense, pruned, *files = evaluated(model_folder, tmp_path)
    first, second = (read_continuations(path) for path in files)
    assert first is not None
    assert second is not None
    assert first["prompts"] == second["prompts"]
    same = [same_start(*pair) for pair in zip(second["greedy"], first["greedy"], strict=True)]
    assert pruned["same/continuations"] == pytest.approx(np.mean(same))
    assert pruned["same/continuations"] < 1
    assert (dense["same/continuations"], dense["same/continuations/stderr"]) == (1, 0)
    for metrics, record in ((dense, first), (pruned, second)):
        expected = [repeated(tokens) for tokens in record["greedy"]]
        assert metrics["repeated/continuations"] == pytest.approx(np.mean(expected))
        error = np.std(expected, ddof=1) / len(expected) ** 0.5
        assert metrics["repeated/continuations/stderr"] == pytest.approx(error)
    own = tokenizer_of(model_folder)
    assert second["texts"] == [own.decode(row, skip_special_tokens=True) for row in second["greedy"]]
    terms = json.loads(files[1].with_name(f"{files[1].stem}.terms.json").read_text())
    how = json.loads(files[1].read_text())["how"]
    assert (len(terms["losses"]), how["new_tokens"], how["tokens_scored"]) == (5, 10, sum(terms["tokens"]))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"prompts": [], "texts": [1], "greedy": []}'])
def test_missing_or_damaged_continuations_are_an_error(
    model_folder: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "abc.json"
    if content is not None:
        written(tmp_path, "abc.continuations.json", content)
    with pytest.raises(DamagedError, match="away"):
        prompts(model_folder).beside(path)


def test_data_are_identified_by_prompts_length_and_seed(model_folder: Path) -> None:
    plain = prompts(model_folder)
    assert plain.sha256 == prompts(model_folder).sha256
    with_dense = replace(plain, dense=Written(((1,),), ((1,),)))
    assert with_dense.sha256 == plain.sha256
    for change in ({"continuation_tokens": 11}, {"seed": 1}, {"prompt_tokens": 13}, {"prompts": 4}):
        assert prompts(model_folder, replace(SETTINGS, **change)).sha256 != plain.sha256


def test_a_file_of_the_user_is_continued_and_must_not_be_the_calibration_text(
    model_folder: Path, tmp_path: Path
) -> None:
    text = " ".join(f"Sentence {n} is about the river {n * n}." for n in range(60))
    path = written(tmp_path, "mine.txt", text)
    mine = replace(SETTINGS, source="file", path=str(path), prompt_tokens=40)
    data = prompts(model_folder, mine)
    assert data.source == str(path)
    assert mine.files() == (str(path),)
    calibration = replace(data.windows, source="calibration")
    with pytest.raises(InputError, match=r"share text in \d+ of \d+ windows"):
        check_disjoint(calibration, {METRIC: data})
    check_disjoint(prompts(model_folder).windows, {METRIC: data})


def test_the_dense_model_is_measured_first_and_prompts_leave_room(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="the dense model is measured before its masks"):
        measure_continuations(forward_of(model_folder), prompts(model_folder), MASK, 2)
    data, own = {METRIC: prompts(model_folder)}, tokenizer_of(model_folder)
    check_evaluation(data, Reader("tiny", 22, own))
    with pytest.raises(InputError, match=r"22 tokens.*eval.prompt_tokens .*eval.continuation_tokens"):
        check_evaluation(data, Reader("tiny", 21, own))

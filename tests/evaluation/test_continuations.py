"""Continuations equal plain computations with and without a cache; what is kept can be read again."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.calibration import files_of
from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import Mask
from pruning.core.records import METRIC, read_continuations
from pruning.engine.forward import Forward
from pruning.evaluation.generation import (
    Generation,
    Prompts,
    continued,
    end_tokens,
    measure_continuations,
    repeated,
    same_start,
    until_end,
)
from pruning.evaluation.lm_eval_tasks import generating
from pruning.evaluation.text_overlap import check_disjoint
from pruning.models.sublayers import masked
from pruning.runs.measurements import Evaluator, measurement_path
from pruning.runs.prepare import Reader, check_evaluation
from tests.conftest import N_BLOCKS
from tests.healing.worlds import tiny
from tests.helpers.evaluations import forward_of, tokenizer_of
from tests.helpers.tokens import written

PROMPTS = [[3, 14, 15, 9, 26, 5], [8, 9, 79, 32, 38, 46], [2, 7, 18, 28, 18, 28]]
MASKS = [Mask(6, (1, 4)), Mask(6, (0, 5)), Mask.parse(6, "a1 m3 a4"), Mask.parse(6, "b2 m0")]


def plain(module: Any, prompt: list[int], count: int) -> tuple[int, ...]:
    """The likeliest token, one at a time, with the whole text read each time."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_moe"])
def test_it_equals_greedy_decoding_of_the_masked_model_without_a_cache(name: str, mask: Mask) -> None:
    if name == "gemma3" and mask.unit == "sublayer":
        mask = Mask.parse(6, "a1 m3")  # other parts need kinds of blocks that this configuration cannot give
    model = tiny(name)
    model.module.generation_config.eos_token_id = model.module.config.eos_token_id = None
    before = [dict(vars(module)) for module in model.module.modules()]
    with masked(model.module, mask):
        wanted = [plain(model.module, prompt, 9) for prompt in PROMPTS]
    with generating(Forward(model), mask):
        assert continued(model.module, PROMPTS, 9, batch_size=2) == wanted
    assert [dict(vars(module)) for module in model.module.modules()] == before
    dense = [plain(model.module, prompt, 9) for prompt in PROMPTS]
    assert dense != wanted, "the mask made no difference"
    assert continued(model.module, PROMPTS, 9, batch_size=3) == dense


def test_samples_are_drawn_from_the_whole_distribution_of_the_model(model_folder: Path) -> None:
    module = forward_of(model_folder).model.module
    # A model's own settings, which must not count.
    module.generation_config.update(do_sample=True, top_k=2, temperature=0.1, repetition_penalty=9.0)
    prompt, count = PROMPTS[0], 4000
    with torch.no_grad():
        logs = module(input_ids=torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
    drawn = torch.tensor([one[0] for one in continued(module, [prompt] * count, 1, batch_size=500, seed=3)])
    surprise = -logs[drawn]
    entropy = -(logs.exp() * logs).sum()
    assert len(set(drawn.tolist())) > 20
    assert abs(surprise.mean() - entropy) < 4 * surprise.std() / count**0.5


@pytest.mark.parametrize(
    "own",
    [
        {
            "min_p": 0.9,
            "repetition_penalty": 9.0,
            "suppress_tokens": [*range(0, 512, 2)],
            "min_new_tokens": 5,
        },
        {"num_beams": 3, "return_dict_in_generate": True, "renormalize_logits": True, "temperature": 0.1},
    ],
    ids=lambda own: next(iter(own)),
)
def test_no_setting_of_the_model_changes_what_it_writes(
    model_folder: Path, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = forward_of(model_folder).model.module
    wanted = [continued(module, PROMPTS, 8, batch_size=3, seed=seed) for seed in (None, 5)]
    changed = copy.deepcopy(module.generation_config)
    changed.update(**own)
    monkeypatch.setattr(module, "generation_config", changed)
    before = changed.to_dict()
    assert [continued(module, PROMPTS, 8, batch_size=3, seed=seed) for seed in (None, 5)] == wanted
    assert module.generation_config is changed
    assert changed.to_dict() == before


def test_the_seed_decides_the_samples_and_others_random_numbers_stay(model_folder: Path) -> None:
    module = forward_of(model_folder).model.module
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again, other = (continued(module, PROMPTS, 8, batch_size=2, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_continuation_ends_with_the_end_of_text(model_folder: Path) -> None:
    module = forward_of(model_folder).model.module
    ((_, second, *_),) = continued(module, PROMPTS[:1], 8, batch_size=1)
    module.generation_config.eos_token_id = [second, 511]
    assert end_tokens(module) == (second, 511)
    found = continued(module, PROMPTS, 8, batch_size=3)
    assert len(found[0]) == 2
    assert found[0][-1] == second
    assert max(map(len, found)) == 8, "the others go on"
    assert until_end([4, 5, 6, 5], (5,)) == (4, 5)
    assert until_end([4, 6], (5,)) == (4, 6)


def test_the_shares_of_repeated_runs_and_before_the_first_difference() -> None:
    assert repeated([1, 2, 3, 4, 5, 6]) == 0
    assert repeated([7] * 8) == pytest.approx(4 / 5)  # five runs of four, one of them new
    assert repeated([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(3 / 5)
    assert repeated([1, 2, 3]) == 0, "there is no run of four"
    assert same_start([5, 6, 9, 8], [5, 6, 7, 8]) == 0.5
    assert same_start([5], [5, 6, 7, 8]) == 0.25
    assert same_start([5, 6, 7], [5, 6]) == 1
    assert same_start([4], [5]) == 0


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
    with_dense = replace(plain, dense=(((1,),), ((1,),)))
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
    assert files_of(mine) == (str(path),)
    calibration = replace(data.windows, source="calibration")
    with pytest.raises(InputError, match=rf"{METRIC} .* \d+ of \d+ windows"):
        check_disjoint(calibration, {METRIC: data})
    check_disjoint(prompts(model_folder).windows, {METRIC: data})


def test_the_dense_model_is_measured_first_and_prompts_leave_room(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="dense model"):
        measure_continuations(forward_of(model_folder), prompts(model_folder), MASK, 2)
    data, own = {METRIC: prompts(model_folder)}, tokenizer_of(model_folder)
    check_evaluation(data, Reader("tiny", 22, own))
    with pytest.raises(InputError, match=r"22 tokens.*eval.prompt_tokens .*eval.continuation_tokens"):
        check_evaluation(data, Reader("tiny", 21, own))

"""Generation with a cache equals greedy decoding of the masked model without one; sampling is the model's own.

Numbers about generated tokens are checked by hand.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.evaluation.choices import generating
from pruning.evaluation.generation import continued, end_tokens, repeated, same_start, until_end
from pruning.models.sublayers import masked
from tests.healing.worlds import tiny
from tests.helpers.evaluations import forward_of

PROMPTS = [[3, 14, 15, 9, 26, 5], [8, 9, 79, 32, 38, 46], [2, 7, 18, 28, 18, 28]]
MASKS = [Mask(6, (1, 4)), Mask(6, (0, 5)), Mask.parse(6, "a1 m3 a4"), Mask.parse(6, "b2 m0")]


def plain(module: Any, prompt: list[int], count: int) -> tuple[int, ...]:
    """The likeliest token, one at a time, with the whole text read each time."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_moe"])
def test_it_equals_greedy_decoding_of_the_masked_model_without_a_cache(
    name: str, mask: Mask, factors: bool
) -> None:
    if name == "gemma3" and mask.unit == "sublayer":
        mask = Mask.parse(6, "a1 m3")  # other parts need kinds of blocks that this configuration cannot give
    model = tiny(name)
    model.module.generation_config.eos_token_id = model.module.config.eos_token_id = None
    scales = tuple(1 + 0.05 * i for i in range(mask.n_units)) if factors else None
    before = [dict(vars(module)) for module in model.module.modules()]
    with masked(model.module, mask, scales):
        wanted = [plain(model.module, prompt, 9) for prompt in PROMPTS]
    with generating(Forward(model, scales=scales), mask) as module:
        assert continued(module, PROMPTS, 9, batch_size=2) == wanted
    assert [dict(vars(module)) for module in model.module.modules()] == before
    dense = [plain(model.module, prompt, 9) for prompt in PROMPTS]
    assert dense != wanted, "the mask made no difference"
    with generating(Forward(model), Mask(6)) as module:
        assert continued(module, PROMPTS, 9, batch_size=3) == dense


def test_factors_change_what_is_written() -> None:
    model, mask = tiny("llama"), Mask(6, (1, 4))
    found = []
    for scales in (None, tuple(3.0 for _ in range(6))):
        with generating(Forward(model, scales=scales), mask) as module:
            found.append(continued(module, PROMPTS, 12, batch_size=4))
    assert found[0] != found[1]


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
        {"min_p": 0.9},
        {"typical_p": 0.1},
        {"epsilon_cutoff": 0.02},
        {"eta_cutoff": 0.5},
        {"top_h": 0.1},
        {"suppress_tokens": [*range(0, 512, 2)]},
        {"begin_suppress_tokens": [*range(0, 512, 2)]},
        {"bad_words_ids": [[token] for token in range(1, 512, 2)]},
        {"sequence_bias": [[[9], 20.0]]},
        {"encoder_repetition_penalty": 5.0},
        {"repetition_penalty": 9.0},
        {"no_repeat_ngram_size": 1},
        {"exponential_decay_length_penalty": (1, 9.0)},
        {"forced_eos_token_id": 3},
        {"guidance_scale": 3.0},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 3},
        {"min_new_tokens": 5},
        {"renormalize_logits": True, "temperature": 0.1},
        {"return_dict_in_generate": True},
    ],
    ids=lambda own: next(iter(own)),
)
def test_no_setting_of_the_model_changes_what_it_writes(model_folder: Path, own: dict[str, Any]) -> None:
    module = forward_of(model_folder).model.module
    kept = module.generation_config
    wanted = [continued(module, PROMPTS, 8, batch_size=3, seed=seed) for seed in (None, 5)]
    module.generation_config = changed = copy.deepcopy(kept)
    changed.update(**own)
    before = changed.to_dict()
    try:
        assert [continued(module, PROMPTS, 8, batch_size=3, seed=seed) for seed in (None, 5)] == wanted
        assert module.generation_config is changed
        assert changed.to_dict() == before
    finally:
        module.generation_config = kept


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


def test_progress_is_shown_by_batches(model_folder: Path) -> None:
    shown: list[tuple[int, int]] = []
    module = forward_of(model_folder).model.module
    continued(module, PROMPTS, 2, batch_size=2, watch=lambda done, total: shown.append((done, total)))
    assert shown == [(1, 2), (2, 2)]


def test_the_share_of_repeated_runs() -> None:
    assert repeated([1, 2, 3, 4, 5, 6]) == 0
    assert repeated([7] * 8) == pytest.approx(4 / 5)  # five runs of four, one of them new
    assert repeated([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(3 / 5)
    assert repeated([1, 2, 3]) == 0, "there is no run of four"


@pytest.mark.parametrize(
    ("tokens", "dense", "share"),
    [
        ([5, 6, 9, 8], [5, 6, 7, 8], 0.5),
        ([5, 6], [5, 6], 1),
        ([5], [5, 6, 7, 8], 0.25),
        ([5, 6, 7], [5, 6], 1),
        ([4], [5], 0),
    ],
)
def test_the_share_before_the_first_difference(tokens: list[int], dense: list[int], share: float) -> None:
    assert same_start(tokens, dense) == share

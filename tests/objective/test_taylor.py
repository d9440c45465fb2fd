from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pruning.calibration.samples import Row
from pruning.config.app import register
from pruning.config.groups import CONF
from pruning.core.errors import InputError
from pruning.models.blocks import find_blocks
from pruning.objective.taylor import Taylor
from tests.helpers.objectives import SINGLES, bound, model, samples, scores


def saliences(module: Any, row: Row) -> list[float]:
    """Sum of |w * dL/dw| over each block's weights, by one ordinary backward pass through the model."""
    module.zero_grad()
    logits = module(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
    start, stop = row.span
    targets = torch.tensor(row.input_ids[start:stop])
    torch.nn.functional.cross_entropy(logits[start - 1 : stop - 1], targets).backward()
    sums = [
        sum(float((p * p.grad).detach().abs().sum()) for p in block.parameters() if p.grad is not None)
        for block in find_blocks(module).modules
    ]
    module.zero_grad(set_to_none=True)
    return sums


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "phi"])
def test_terms_add_up_what_each_weight_would_change(name: str) -> None:
    module, data = model(name), samples("text")
    results = scores(bound(Taylor(), module, data), SINGLES)
    expected = np.array([saliences(module, row) for row in data.rows])
    for index, mask in enumerate(SINGLES):
        assert list(results[mask].samples) == pytest.approx(expected[:, index].tolist(), rel=1e-6)
    assert all(p.grad is None for p in module.parameters()), "no gradients remain"


def test_frozen_weights_count_as_others_do_and_stay_frozen() -> None:
    data = samples("text", 2)
    trainable = scores(bound(Taylor(), model("llama"), data), SINGLES)
    frozen = model("llama").requires_grad_(False)
    frozen.get_output_embeddings().weight.requires_grad_(True)
    found = scores(bound(Taylor(), frozen, data), SINGLES)
    assert [found[mask].loss for mask in SINGLES] == [trainable[mask].loss for mask in SINGLES]
    block = find_blocks(frozen).modules[0]
    assert not any(weight.requires_grad for weight in block.parameters())


def test_a_mixture_of_experts_counts_the_experts_that_were_used() -> None:
    module = model("mixtral", torch.float32)
    data = samples("text", 2)
    results = scores(bound(Taylor(), module, data), SINGLES)
    expected = np.array([saliences(module, row) for row in data.rows])
    for index, mask in enumerate(SINGLES):
        assert list(results[mask].samples) == pytest.approx(expected[:, index].tolist(), rel=1e-3)


def test_offloaded_weights_are_refused_with_a_reason() -> None:
    module = cpu_offload(model(), execution_device=torch.device("cpu"))
    with pytest.raises(InputError, match=r"model\.dtype"):
        scores(bound(Taylor(), module, samples("text")), SINGLES)


def test_taylor_plus_protects_the_ends() -> None:
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plus = compose("config", ["objective=taylor_plus"])
        plain = compose("config", ["objective=taylor"])
        chosen = compose("config", ["objective=taylor_plus", "protect.first=1"])
    assert (plus.protect.first, plus.protect.last) == (4, 2)
    assert (plain.protect.first, plain.protect.last) == (0, 0)
    assert (chosen.protect.first, chosen.protect.last) == (1, 2)
    assert plus.objective == plain.objective


def test_of_an_item_the_right_answer_counts() -> None:
    module, data = model(), samples("items", 3)
    results = scores(bound(Taylor(), module, data), SINGLES)
    right = [row for row in data.rows if row.right]
    for number, row in enumerate(right):
        assert results[SINGLES[4]].samples[number] == pytest.approx(saliences(module, row)[4], rel=1e-6)

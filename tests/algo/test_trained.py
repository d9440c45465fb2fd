"""All searches on a tiny trained model, whose blocks have an effect, compared with the true optimum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.calibration.samples import Row, Samples
from pruning.core.mask import Space
from pruning.engine.forward import Forward
from pruning.models.handle import LanguageModel, ModelInfo
from pruning.objective import Calibrated
from pruning.objective.likelihood import Perplexity
from tests.helpers.architectures import tiny_llama
from tests.helpers.searches import configured, solved

N, TOKENS, LENGTH = 8, 24, 32
SPACE = Space(N, 3)


def texts(count: int, seed: int) -> torch.Tensor:
    """Texts (count, LENGTH) in which the two preceding tokens determine a token with probability 0.9."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(0).integers(1, TOKENS, (TOKENS, TOKENS))
    rows = rng.integers(1, TOKENS, (count, LENGTH))
    for t in range(2, LENGTH):
        lawful = rng.random(count) < 0.9
        rows[lawful, t] = table[rows[lawful, t - 2], rows[lawful, t - 1]]
    return torch.from_numpy(rows)


@pytest.fixture(scope="module")
def model() -> Any:
    """A Llama of eight blocks after 100 training steps: not converged, but far better than chance."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_key_value_heads": 4, "num_hidden_layers": N}
    module = tiny_llama(vocab_size=TOKENS, initializer_range=0.02, **sizes)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for step in range(100):
        batch = texts(32, seed=step + 1)
        loss = module(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.8 * np.log(TOKENS), "the model must be better than chance"
    return LanguageModel(module.eval(), ModelInfo("tiny", "trained", "0", N, "float32", 0))


@pytest.fixture(scope="module")
def losses(model: LanguageModel) -> Calibrated:
    rows = tuple(Row(tuple(map(int, ids)), (2, LENGTH)) for ids in texts(16, seed=12345).tolist())
    return Calibrated(Perplexity(), Forward(model), Samples("text", "trained", rows, 0))


@pytest.mark.slow
def test_no_search_beats_exhaustive(losses: Calibrated, tmp_path: Path) -> None:
    algos = configured()
    algos["bayesian"] = replace(algos["bayesian"], trials=56)  # type: ignore[type-var]
    found = {name: solved(tmp_path, losses, algo, SPACE, cell=name)[0] for name, algo in algos.items()}
    loss = {name: solution.score.loss for name, solution in found.items()}
    assert min(loss.values()) == loss["exhaustive"] == loss["bayesian"], (
        "56 trials are enough for all 56 masks"
    )
    for name in ("genetic", "bayesian", "annealing", "evolution", "local_search", "cbo"):
        assert loss[name] <= loss["one_shot"], f"{name} ended worse than its start, the one-shot set"

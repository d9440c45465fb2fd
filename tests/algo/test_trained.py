"""All searches on a tiny trained model, whose blocks have an effect, compared with the true optimum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from pruning.algo import Algo
from pruning.calibration.samples import Row, Samples
from pruning.config.app import register
from pruning.config.groups import CONF, options
from pruning.core.mask import Space
from pruning.engine.forward import Forward
from pruning.models.model import LanguageModel, ModelInfo
from pruning.objective import Calibrated
from pruning.objective.perplexity import Perplexity
from pruning.search.choice import Racing
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, Store

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
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, num_hidden_layers=N, **sizes))
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


@pytest.fixture(scope="module")
def algos() -> Iterator[dict[str, Algo]]:
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = {name: instantiate(compose("config", [f"algo={name}"]).algo) for name in options("algo")}
        yield found | {"bayesian": replace(found["bayesian"], trials=56)}


@pytest.mark.slow
def test_no_search_beats_exhaustive_and_regrets_are_printed(
    algos: dict[str, Algo], losses: Calibrated, tmp_path: Path
) -> None:
    solutions: dict[str, Solution] = {}
    for name, algo in algos.items():
        store = Store(tmp_path, "key", name, N)
        store.claim()
        (tmp_path / name).mkdir()
        journal = Journal.open(tmp_path / name / "trace.jsonl", N)
        solutions[name] = solve(
            Problem(algo, SPACE, 0, Racing()), losses, KnownScores(journal, store), lambda *_: None
        )
    best = solutions["exhaustive"].score.loss
    for name, solution in sorted(solutions.items(), key=lambda pair: pair[1].score.loss):
        regret = solution.score.loss - best
        print(f"{name:18} regret {regret:.4f} nats  asked {solution.asked:6.1f}  {solution.why}")  # noqa: T201
        assert regret >= 0, f"{name} beat the true optimum"
    one_shot = solutions["one_shot"].score.loss
    for name in ("genetic", "bayesian", "annealing", "evolution", "local_search", "cbo"):
        assert solutions[name].score.loss <= one_shot, f"{name} ended worse than its start, the one-shot set"
    assert solutions["bayesian"].score.loss == best, "56 trials are enough for all 56 masks"

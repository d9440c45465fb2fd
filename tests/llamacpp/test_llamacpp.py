"""A real llama.cpp runs cut GGUF files and agrees with transformers, which computes the whole file with the mask.

These tests need the extra `llamacpp`, whose package is built from its source for about ten minutes, so they run only
with TEST_GGUF=1 (`make test-gguf`). The key-value cache is kept in float32. llama.cpp rounds the inputs of products
with F16, BF16 and quantised weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.core.mask import Mask
from pruning.export.gguf_export import export_gguf, find_gguf, load_dense
from pruning.export.request import Request
from pruning.export.verify import expected
from pruning.models import gguf as cutting
from pruning.models.handle import Model
from tests.helpers import gguf_models
from tests.helpers.exports import wanted

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(os.environ.get("TEST_GGUF") != "1", reason="needs llama.cpp: run `make test-gguf`"),
]

# Differences are the largest of any next-token log-probability, in nats. In F32 they are rounding; llama.cpp looks
# Gemma's GELU up in a table of half precision. With other weights, llama.cpp also rounds the inputs of products. What
# that costs is measured on the whole file, and a cut file may differ by three times as much.
ROUNDING, FACTOR = {"gemma2": 1e-2, "gemma3": 1e-2}, 3
BROKEN_RULE = {
    "gemma2": (0, 5),
    "gemma3": (0, 1),
    "qwen3moe": (1, 4),
}  # kinds that must be listed in the file
CASES = [(kind, "F32") for kind in gguf_models.KINDS]
# Not for experts: where rounding makes a router choose another expert, everything after it differs.
CASES += [(kind, "Q8_0") for kind in ("llama", "qwen2", "qwen3", "gemma2", "gemma3")]
CASES += [("llama", type_) for type_ in ("F16", "BF16", "Q4_0")]


def log_probabilities(path: Path, ids: list[int]) -> torch.Tensor:
    """Of all next tokens at each position (T, V), by llama.cpp."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path),
        n_ctx=max(256, len(ids)),
        n_batch=256,
        logits_all=True,
        verbose=False,
        type_k=0,
        type_v=0,
        n_threads=1,
    )
    model.eval(ids)
    scores = torch.from_numpy(np.array(model.scores[: len(ids)]))
    model.close()
    return scores.double().log_softmax(-1)


def differences(request: Request) -> tuple[float, float]:
    """Export, and compare llama.cpp with transformers: the new file with the mask, and the whole file without."""
    export_gguf(request)
    path, settings = find_gguf(request.model)
    dense = load_dense(settings)
    goals = {request.out: expected(dense, request.mask), path: expected(dense, request.mask.dense)}
    cut, whole = (_gap(file, goal) for file, goal in goals.items())
    print(f"{path.name} {cut:.1e}, the whole file {whole:.1e}")  # noqa: T201 - shown with -s
    return cut, whole


def _gap(path: Path, goal: Any) -> float:
    own = log_probabilities(path, goal.ids[0].tolist())
    return float((own - goal.logits.double().log_softmax(-1)).abs().max())


@pytest.mark.parametrize(("kind", "type_"), CASES)
def test_llama_cpp_computes_the_masked_model(tmp_path: Path, kind: str, type_: str) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind, type_)
    cut, whole = differences(wanted(path, Mask(6, BROKEN_RULE.get(kind, (1, 4)))))
    assert cut < (ROUNDING.get(kind, 1e-3) if type_ == "F32" else FACTOR * whole)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_without_the_list_llama_cpp_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = gguf_models.write(tmp_path / "tiny.gguf", kind)
    monkeypatch.setattr(cutting, "window_lists", lambda *_: {})
    assert differences(wanted(path, Mask(6, BROKEN_RULE[kind])))[0] > 0.1


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "mask"), [("smollm2", Mask(30, (5, 14, 25))), ("gemma3_270m", Mask(18, (3, 9)))], ids=str
)
def test_packaged_models(tmp_path: Path, name: str, mask: Mask) -> None:
    cut, whole = differences(Request(Model(name, "packaged", name), mask, tmp_path / "out.gguf"))
    assert cut < max(1e-3, FACTOR * whole)

"""Floating-point tensors are decoded and encoded exactly; quantised ones are refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pruning.core.errors import InputError
from pruning.models.gguf import Stored, decoded, encoded, open_gguf
from tests.helpers import gguf_models

NAME = "blk.0.attn_k.weight"


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16"])
def test_values_survive(tmp_path: Path, type_: str) -> None:
    tensor = open_gguf(gguf_models.write(tmp_path / "a.gguf", type_=type_)).tensors[NAME]
    values = decoded(tensor, "<")
    reference = gguf.dequantize(tensor.data.view({"F32": "f4", "F16": "f2"}.get(type_, "u1")), tensor.kind)
    assert torch.equal(values.float().reshape(-1), torch.from_numpy(np.array(reference, "f4").reshape(-1)))
    assert values.shape == (32, 64)
    assert encoded(values, tensor, "<").tobytes() == bytes(tensor.data)


def test_the_byte_order_is_respected() -> None:
    tensor = Stored("x", (2,), 0, np.frombuffer(np.array([1.5, -2.0], ">f4").tobytes(), np.uint8))
    assert decoded(tensor, ">").tolist() == [1.5, -2.0]
    assert encoded(torch.tensor([1.5, -2.0]), tensor, ">").tobytes() == bytes(tensor.data)


def test_values_that_do_not_fit_are_refused() -> None:
    tensor = Stored("x", (1,), 1, np.zeros(2, np.uint8))
    with pytest.raises(InputError, match="values that F16 cannot represent"):
        encoded(torch.tensor([1e6]), tensor, "<")


def test_a_quantised_tensor_is_refused(tmp_path: Path) -> None:
    tensor = open_gguf(gguf_models.write(tmp_path / "a.gguf", type_="Q4_0")).tensors[NAME]
    with pytest.raises(InputError, match=r"attn_k\.weight is quantised \(Q4_0\)"):
        decoded(tensor, "<")


def test_zero_bytes_are_zero_weights_in_every_type() -> None:
    checked = 0
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            values = gguf.dequantize(np.zeros((3, size), np.uint8), kind)
        except NotImplementedError:
            continue
        assert not values.any(), kind
        checked += 1
    assert checked > 20

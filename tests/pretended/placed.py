"""A tiny Llama on pretended GPUs: spread over two of them, or on one with some blocks in main memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import dispatch_model

from pruning.models.blocks import find_blocks
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.pretended_gpu import Machine, pretended_gpus

PLACES = ("spread", "offloaded")


def device_map(module: Any, place: str) -> dict[str, Any]:
    """The devices of a model's parts: the first half and the head on GPU 0, the rest on GPU 1 or in main memory."""
    second: Any = 1 if place == "spread" else "cpu"
    blocks = find_blocks(module).path
    places: dict[str, Any] = {
        f"{blocks}.{index}": 0 if index < N_BLOCKS // 2 else second for index in range(N_BLOCKS)
    }
    for name, part in module.named_modules():
        if not list(part.children()) and not name.startswith(f"{blocks}."):
            places[name] = 0
    return places


def placed(place: str, name: str = "llama", module: Any = None) -> Any:
    """A tiny model on the pretended GPUs of the context in which this is called."""
    module = build(name) if module is None else module
    return dispatch_model(module, device_map(module, place), main_device=0, force_hooks=True)


@contextmanager
def gpus(**settings: Any) -> Iterator[Machine]:
    with pretended_gpus(2, **settings) as machine:
        yield machine

"""The numbers of a routing study: the cross table, the policies with intervals, and the oracle's gain."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np

from pruning.core.mask import Mask
from pruning.routing.encoders import Encoder
from pruning.routing.fitted_router import (
    DENSE,
    POLICIES,
    FittedRouter,
    Measured,
    choices,
    counts,
    explained,
    routes,
    values,
)
from pruning.routing.set_scores import (
    Difference,
    Floats,
    Interval,
    Scores,
    difference,
    interval,
    mean_over_tasks,
    oracle_gain,
    prompt_rows,
)


class Entry(TypedDict):
    """The held-out items of a task under one set, with paired differences."""

    accuracy: float
    margin: float
    accuracy_to_dense: Difference
    accuracy_to_own: Difference
    margin_to_own: Difference


class Policy(TypedDict):
    """A policy: its accuracy and margin as means over tasks, and its gain in accuracy over the static set."""

    accuracy: Interval
    gain: Interval
    margin: float


class Oracle(TypedDict):
    """The oracle's gain over the best static set: as it appears, and what survives a second wording.

    `excess` is the surviving gain minus `chance`, which is the same with random labels.
    """

    apparent: Interval
    surviving: Interval
    chance: Interval
    excess: Interval
    verdict: str


class RouterFit(TypedDict):
    """How well the router predicts held-out items, and which sets it chooses for each task."""

    explained: dict[str, float]
    chosen: dict[str, dict[str, int]]


class Summary(TypedDict):
    """The numbers of a routing study. `cross` is by task and then by set, of which `dense` is the first."""

    cross: dict[str, dict[str, Entry]]
    static: str
    hindsight: str
    policies: dict[str, Policy]
    router: RouterFit
    oracle: NotRequired[Oracle]


def summary(
    measured: Measured,
    reworded: Scores | None,
    predicted: Mapping[str, Floats],
    sets: Sequence[str],
    target: str = "loglikelihood",
) -> Summary:
    """The numbers of a study.

    `predicted` are the router's predictions (sets, items) of `target` for held-out items, by task.
    """
    chosen = choices(measured, {task: routes(of_task) for task, of_task in predicted.items()})
    first = next(iter(measured.heldout))
    found: Summary = {
        "cross": {task: _cross(measured, task, sets) for task in measured.heldout},
        "static": sets[int(chosen["static"][first][0]) - 1],
        "hindsight": sets[int(chosen["hindsight"][first][0]) - 1],
        "policies": _policies(measured, chosen),
        "router": {
            "explained": _explained(measured, predicted, target),
            "chosen": counts(chosen["router"], sets),
        },
    }
    if reworded is not None:
        found["oracle"] = _oracle(measured.of_sets(measured.heldout), measured.of_sets(reworded))
    return found


def _cross(measured: Measured, task: str, sets: Sequence[str]) -> dict[str, Entry]:
    scores, own = measured.heldout[task], 1 + measured.own[task]
    return {
        name: {
            "accuracy": float(scores.hits[number].mean()),
            "margin": float(scores.margin[number].mean()),
            "accuracy_to_dense": difference(scores.hits[number], scores.hits[0]),
            "accuracy_to_own": difference(scores.hits[number], scores.hits[own]),
            "margin_to_own": difference(scores.margin[number], scores.margin[own]),
        }
        for number, name in enumerate([DENSE, *sets])
    }


def _policies(measured: Measured, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Policy]:
    hits, margins = values(measured, chosen, "hits"), values(measured, chosen, "margin")
    static = hits["static"]
    return {
        name: {
            "accuracy": interval(hits[name]),
            "gain": interval({task: of_task - static[task] for task, of_task in hits[name].items()}),
            "margin": mean_over_tasks(margins[name]),
        }
        for name in POLICIES
    }


def _oracle(held: Scores, reworded: Scores) -> Oracle:
    gain = oracle_gain(held, reworded)
    surviving = interval(gain.surviving)
    excess = interval({task: of_task - gain.chance[task] for task, of_task in gain.surviving.items()})
    return {
        "apparent": interval(gain.apparent),
        "surviving": surviving,
        "chance": interval(gain.chance),
        "excess": excess,
        "verdict": verdict(surviving, excess),
    }


def verdict(surviving: Interval, excess: Interval) -> str:
    """What the oracle's gain says about the sets."""
    if surviving["low"] <= 0:
        return "chance, as far as these items tell: no gain survives a second wording"
    if excess["low"] <= 0:
        return "no more than chance: with random labels, as much survives a second wording"
    return "more than chance: more survives a second wording than with random labels"


def _explained(measured: Measured, predicted: Mapping[str, Floats], target: str) -> dict[str, float]:
    true = [measured.heldout[task].target(target)[1:] for task in predicted]
    return explained(np.hstack(list(predicted.values())), np.hstack(true))


# Seconds to read a prompt: the dense model, the model without the routed set, and the router itself.

REPEATS = 5


class Prefill(TypedDict):
    """Mean seconds per prompt; of each prompt, the median of the repeats counts."""

    prompts: int
    tokens: float
    dense: float
    pruned: float
    router: float


@dataclass(frozen=True)
class Reader:
    """A model in memory, its tokenizer, and a router with its encoder."""

    module: Any
    tokenizer: Any
    router: FittedRouter
    encoder: Encoder


def prefill(reader: Reader, prompts: Sequence[str]) -> Prefill:
    """Time the prefill of each prompt alone: dense, without the set that the router chooses, and the router.

    The three take turns. The pruned model is the one that would be exported; the router runs its first blocks apart,
    so a server that keeps their states would need less.
    """
    from pruning.models.removal import blocks_removed, smaller_config

    masks = list(reader.router.sets.values())
    chosen = routes(reader.router.predict(reader.encoder, prompts))
    smaller = {mask: smaller_config(reader.module, mask) for mask in {masks[number] for number in chosen}}
    times: list[tuple[float, float, float]] = []
    for prompt, number in zip(prompts, chosen, strict=True):
        mask = masks[number]

        def without(mask: Mask = mask) -> AbstractContextManager[None]:
            return blocks_removed(reader.module, mask, smaller[mask])

        times.append(_three(reader, prompt, without))
    dense, pruned, router = np.mean(times, axis=0)
    lengths = [len(row.input_ids) for row in prompt_rows(reader.tokenizer, prompts)]
    return Prefill(
        prompts=len(prompts),
        tokens=float(np.mean(lengths)),
        dense=float(dense),
        pruned=float(pruned),
        router=float(router),
    )


def _three(
    reader: Reader, prompt: str, without: Callable[[], AbstractContextManager[None]]
) -> tuple[float, float, float]:
    """The median seconds of the three for one prompt, after a round that is not counted."""
    import torch

    from pruning.models.blocks import input_device

    (row,) = prompt_rows(reader.tokenizer, [prompt])
    ids = torch.tensor([row.input_ids]).to(input_device(reader.module))
    rounds = []
    for _ in range(REPEATS + 1):
        dense = _timed(lambda: _read(reader.module, ids))
        with without():
            pruned = _timed(lambda: _read(reader.module, ids))
        rounds.append((dense, pruned, _timed(lambda: reader.router.predict(reader.encoder, [prompt]))))
    dense, pruned, router = np.median(rounds[1:], axis=0)
    return float(dense), float(pruned), float(router)


def _read(module: Any, ids: Any) -> Any:
    """Read a prompt as a generation does: with a cache, and logits of the last position only."""
    import torch

    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(module.forward).parameters else {}
    with torch.inference_mode():
        return module(input_ids=ids, use_cache=True, **last).logits


def _timed(run: Callable[[], Any]) -> float:
    import torch

    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started

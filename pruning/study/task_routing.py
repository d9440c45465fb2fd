"""Cross the tasks of a study with their sets: score every item under every set, fit the router, record the numbers.

Scores and states are files of their own. A command that was stopped reads those that it finds.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pruning.calibration.items import TaskItems
from pruning.core import storage
from pruning.core.errors import DamagedError, PruningError
from pruning.core.mask import Mask
from pruning.core.records import DoneResult, now, provenance
from pruning.core.storage import digest
from pruning.routing import router_files, set_scores
from pruning.routing.encoders import Encoder, encoder_of, encoder_revision, first_blocks, prompt_rows
from pruning.routing.fitted_router import FittedRouter, fit_head
from pruning.routing.set_scores import DENSE, POLICIES, Crossed, Floats, Interval, ItemScores
from pruning.runs.cell import Cell
from pruning.runs.loaded_cell import forward_of, model_of
from pruning.runs.measurements import batches_shown
from pruning.study.task_cells import TaskData, TaskSettings, data_of
from pruning.study.text_tables import render

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)

TIMED = 16  # held-out prompts whose prefill is timed, over all tasks
REPEATS = 5  # times that each is read


def route_group(
    cells: Sequence[Cell], results: Sequence[DoneResult], settings: TaskSettings
) -> dict[str, Any]:
    """The record of a group of finished cells, which is also in `routing.json`; computed unless it is there."""
    group = Crossing(cells, results, data_of(cells, settings), settings)
    path, chosen = group.folder / router_files.RECORD, settings.router
    # The digest of the router's settings and of the files of a hub encoder.
    plain = dataclasses.asdict(chosen)
    request = digest([plain, encoder_revision(chosen.path)] if chosen.encoder == "hub" else plain)
    earlier: dict[str, Any] = storage.read_json(path) if path.is_file() else {}
    known = earlier.get("studies", [])
    studies = sorted({*known, cells[0].study})
    if earlier.get("request") == request:
        if studies != known:
            storage.write_json(path, earlier := {**earlier, "studies": studies})
        return earlier | {"folder": str(group.folder)}
    started = now()
    model = model_of(cells[0])
    forward = forward_of(cells[0], model)
    scores = {part: _scores(group, forward, part) for part in group.tasks[0].parts}
    names = list(group.sets)
    crossed = Crossed(scores["calibration"], scores["heldout"], {name: i for i, name in enumerate(names)})

    # The router is fitted to the calibration items, and predicts for the held-out ones.
    blocks = first_blocks(list(group.sets.values()), chosen.blocks)
    tokenizer = cells[0].model.tokenizer
    encoder = encoder_of(chosen, forward, tokenizer, blocks)
    states = _states(group, encoder, blocks)
    targets = np.hstack([scores["calibration"][name].target(chosen.target)[1:] for name in names])
    head = fit_head(states["calibration"], targets.T, chosen)
    template = cast(TaskItems, cells[0].calibration).template
    router = FittedRouter(group.sets, head, blocks, template, chosen, encoder.revision)
    predicted = {name: head.predict(states[name]).T for name in names}
    path.unlink(missing_ok=True)  # it describes the router that is now replaced
    router_files.save_router(group.folder, router, router_files.model_record(model, cells[0].model))

    numbers = set_scores.summary(crossed, scores.get("reworded"), predicted, names, chosen.target)
    record = {"request": request, "study": cells[0].study, "studies": studies, **group.described(), **numbers}
    strengths = {"common": head.common.strength, "relative": head.relative.strength}
    record["router"] |= {"settings": plain, "blocks": blocks, "strengths": strengths}
    each = max(1, TIMED // len(names))
    prompts = [prompt for task in group.tasks for prompt in task.prompts["heldout"][:each]]
    log.info("timing the prefill of %d prompts", len(prompts))
    try:
        record["prefill"] = prefill(model.module, tokenizer, router, encoder, prompts)
    except PruningError as error:  # a smaller model of this kind cannot be made in memory
        log.warning("the prefill is not timed: %s", error)
        record["prefill"] = None
    record["environment"] = provenance(started, str(model.device))
    storage.write_json(path, record)
    return record | {"folder": str(group.folder)}


@dataclass(frozen=True)
class Crossing:
    """The cells of one model and search, one per task, with their results and the items of their tasks."""

    cells: Sequence[Cell]
    results: Sequence[DoneResult]
    tasks: Sequence[TaskData]
    settings: TaskSettings

    @cached_property
    def sets(self) -> dict[str, Mask]:
        """The set of each task."""
        pairs = zip(self.tasks, self.results, strict=True)
        return {task.name: Mask.from_json(result["mask"]) for task, result in pairs}

    @cached_property
    def folder(self) -> Path:
        """The folder of the group's files; its name has a digest of the weights, the sets and the items."""
        cell = self.cells[0]
        data = [samples.sha256 for task in self.tasks for samples in task.parts.values()]
        masks = {name: mask.to_json() for name, mask in self.sets.items()}
        size = f"k{cell.k}" if cell.ratio is None else f"r{cell.ratio:g}"
        unit = "" if cell.unit == "block" else f"-{cell.unit}"
        stem = f"{cell.model.name}-{cell.choices.objective}-{cell.choices.algo}-{size}{unit}-s{cell.seed}"
        return cell.results / router_files.FOLDER / f"{stem}-{digest([cell.weights(), masks, data])}"

    def described(self) -> dict[str, Any]:
        """What was searched, and the items of each task."""
        cell = self.cells[0]
        return {
            "model": cell.model.name,
            "objective": cell.choices.objective,
            "algo": cell.choices.algo,
            "unit": cell.unit,
            "k": cell.k,
            "ratio": cell.ratio,
            "seed": cell.seed,
            "rewording": self.settings.tasks.rewording,
            "cells": {task.name: one.key for task, one in zip(self.tasks, self.cells, strict=True)},
            "sets": {name: mask.to_json() for name, mask in self.sets.items()},
            "items": {
                task.name: {
                    part: {"items": samples.count, "sha256": samples.sha256}
                    for part, samples in task.parts.items()
                }
                for task in self.tasks
            },
        }


def _scores(group: Crossing, forward: Forward, part: str) -> dict[str, ItemScores]:
    """The scores of a part of each task under the dense model and all sets; each task is a file."""
    found = {}
    masks = [*group.sets.values()]
    for number, task in enumerate(group.tasks, start=1):
        path = group.folder / "scores" / f"{task.name}-{part}.npz"
        if not path.is_file():
            samples = task.parts[part]
            log.info(
                "task %d of %d, %s: %d %s items under %d sets",
                *(number, len(group.tasks), task.name, samples.count, part, len(masks)),
            )
            with batches_shown(f"{task.name} {part}") as show:
                scored = set_scores.score_items(forward.watched(show), samples, [masks[0].dense, *masks])
            fields = [field.name for field in dataclasses.fields(scored)]
            router_files.save_arrays(path, {name: getattr(scored, name) for name in fields})
        try:
            found[task.name] = ItemScores(**router_files.read_arrays(path))
        except TypeError as error:
            raise DamagedError(
                f"{path} does not hold the scores of items: move it away and run again."
            ) from error
    return found


def _states(group: Crossing, encoder: Encoder, blocks: int) -> dict[str, Floats]:
    """The features of the calibration prompts of all tasks, and of each task's held-out ones by its name.

    They are kept in a file for each encoder.
    """
    settings = group.settings.router
    read = [settings.path, encoder.revision] if settings.encoder == "hub" else [blocks]
    path = group.folder / f"states-{digest([settings.encoder, *read])}.npz"
    if not path.is_file():
        prompts = {"calibration": [p for task in group.tasks for p in task.prompts["calibration"]]}
        prompts |= {task.name: list(task.prompts["heldout"]) for task in group.tasks}
        log.info("reading %d prompts for the router", sum(map(len, prompts.values())))
        router_files.save_arrays(path, {f"of_{name}": encoder.encode(some) for name, some in prompts.items()})
    return {name.removeprefix("of_"): value for name, value in router_files.read_arrays(path).items()}


# Seconds to read a prompt: the dense model, the model without the routed set, and the router itself.


def prefill(
    module: Any, tokenizer: Any, router: FittedRouter, encoder: Encoder, prompts: Sequence[str]
) -> dict[str, Any]:
    """Mean seconds per prompt, read alone: dense, without the set that the router chooses, and the router's own.

    The three take turns, and the median of the repeats counts. The pruned model is the one that would be exported;
    the router runs its first blocks apart, so a server that keeps their states would need less.
    """
    import torch

    from pruning.models.blocks import input_device
    from pruning.models.removal import blocks_removed, smaller_config

    # A prompt is read as a generation does: with a cache, and logits of the last position only.
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(module.forward).parameters else {}
    masks, rows = list(router.sets.values()), prompt_rows(tokenizer, prompts)
    chosen = [masks[number] for number in set_scores.routes(router.predict(encoder, prompts))]
    smaller = {mask: smaller_config(module, mask) for mask in set(chosen)}
    times = []
    for prompt, row, mask in zip(prompts, rows, chosen, strict=True):
        ids = torch.tensor([row.input_ids]).to(input_device(module))

        def read(ids: Any = ids) -> None:
            with torch.inference_mode():
                module(input_ids=ids, use_cache=True, **last)

        def route(prompt: str = prompt) -> None:
            router.predict(encoder, [prompt])

        rounds = []
        for _ in range(1 + REPEATS):  # the first is not counted
            dense = _seconds(read)
            with blocks_removed(module, mask, smaller[mask]):
                pruned = _seconds(read)
            rounds.append((dense, pruned, _seconds(route)))
        times.append(np.median(rounds[1:], axis=0))
    lengths = [len(row.input_ids) for row in rows]
    means = dict(zip(("dense", "pruned", "router"), np.mean(times, axis=0).tolist(), strict=True))
    return {"prompts": len(prompts), "tokens": float(np.mean(lengths)), **means}


def _seconds(run: Callable[[], None]) -> float:
    import torch

    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


# The tables that a study of tasks prints: all tasks under all sets, and what each policy gains.


def routing_text(record: Mapping[str, Any]) -> str:
    """Everything about one group of cells, in the order in which it is read."""
    size = f"k={record['k']}" if record["ratio"] is None else f"{record['ratio']:g}"
    title = (
        f"{record['model']} {record['objective']} {record['algo']} {size} {record['unit']}: sets and tasks"
    )
    parts = [title, _cross(record, "accuracy"), _cross(record, "margin"), _policies(record), _oracle(record)]
    parts += [_router_text(record), _prefill(record), f"routing  {record['folder']}"]
    return "\n\n".join(part for part in parts if part)


def _cross(record: Mapping[str, Any], what: str) -> str:
    """A row per set and a column per task; each set's difference from the task's own set, with its standard error."""
    cross = record["cross"]
    rows = []
    for name in [DENSE, *record["sets"]]:
        mask = "" if name == DENSE else " ".join(Mask.from_json(record["sets"][name]).names())
        rows.append([name, mask, *(_entry(cross[task][name], what, name == task) for task in cross)])
    wanted = "accuracy on held-out items" if what == "accuracy" else "margin (lower is better)"
    return f"{wanted}; in brackets: minus the task's own set\n" + render(("set", "drops", *cross), rows)


def _entry(entry: Mapping[str, Any], what: str, own: bool) -> str:
    text = f"{entry[what]:.3f}"
    if own:
        return f"{text} (own)"
    gap = entry[f"{what}_to_own"]
    error = "" if gap["error"] is None else f" ± {gap['error']:.3f}"
    return f"{text} ({gap['value']:+.3f}{error})"


def _policies(record: Mapping[str, Any]) -> str:
    rows = []
    for name, policy in record["policies"].items():
        gain = "" if name == "static" else _interval(policy["gain"], signed=True)
        rows.append([name, POLICIES[name], _interval(policy["accuracy"]), gain, f"{policy['margin']:.3f}"])
    columns = ("policy", "chooses", "accuracy, mean over tasks", "gain over static", "margin")
    return render(columns, rows)


def _oracle(record: Mapping[str, Any]) -> str:
    if (oracle := record.get("oracle")) is None:
        return ""
    gains = {name: _interval(oracle[name], signed=True) for name in ("apparent", "surviving", "chance")}
    return (
        f"oracle   gain over the best static set {gains['apparent']}; after a second wording {gains['surviving']}; "
        f"that with random labels {gains['chance']}\n         {oracle['verdict']}"
    )


def _router_text(record: Mapping[str, Any]) -> str:
    router = record["router"]
    shares = router["explained"]
    rows = [[task, *map(str, counts.values())] for task, counts in router["chosen"].items()]
    table = render(("prompts of", *record["sets"]), rows)
    return (
        f"router   predicts the {router['settings']['target']}; it explains {shares['common']:.2f} of the variance "
        f"of its mean over sets, and {shares['relative']:.2f} of that of the differences between sets; it chooses\n"
        f"{table}"
    )


def _prefill(record: Mapping[str, Any]) -> str:
    if (times := record["prefill"]) is None:
        return ""
    dense, pruned, router = times["dense"], times["pruned"], times["router"]
    saved = 1 - (pruned + router) / dense
    return (
        f"prefill  {1000 * dense:.1f} ms per prompt of {times['tokens']:.0f} tokens dense; "
        f"{1000 * pruned:.1f} pruned + {1000 * router:.1f} router: {100 * saved:.0f} % saved, "
        f"{100 * (1 - pruned / dense):.0f} % without the router's time"
    )


def _interval(found: Interval, signed: bool = False) -> str:
    """`0.512 [0.498, 0.527]`."""
    sign = "+" if signed else ""
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"

"""Cross the tasks of a study with their sets: score every item under every set, fit the router, record the numbers.

Scores and states are files of their own. A command that was stopped reads those that it finds.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pruning.calibration.task_items import TaskItems
from pruning.core import atomic_files
from pruning.core.errors import PruningError
from pruning.core.hashing import digest
from pruning.core.provenance import now, provenance
from pruning.core.result import DoneResult
from pruning.models import loader
from pruning.routing import files
from pruning.routing.encoder_files import encoder_revision
from pruning.routing.encoders import Encoder, encoder_of
from pruning.routing.policies import Measured
from pruning.routing.prompts import first_blocks
from pruning.routing.router import FittedRouter, fit_router
from pruning.routing.scores import Floats, ItemScores, score_items
from pruning.routing.settings import RouterSettings
from pruning.routing.summary import summary
from pruning.routing.timing import Reader, prefill
from pruning.runs.cell import Cell
from pruning.runs.cell_model import forward_of, model_of
from pruning.runs.progress import batches_shown
from pruning.study.task_cells import TaskSettings, data_of
from pruning.study.task_group import Group, described

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)

TIMED = 16  # held-out prompts whose prefill is timed, over all tasks


def route_group(
    cells: Sequence[Cell], results: Sequence[DoneResult], settings: TaskSettings
) -> dict[str, Any]:
    """The record of a group of finished cells, which is also in `routing.json`; computed unless it is there."""
    group = Group(cells, results, data_of(cells, settings), settings)
    path, request = group.folder / files.RECORD, _request(settings.router)
    earlier = atomic_files.read_json(path) if path.is_file() else {}
    known = files.studies_of(earlier)
    studies = sorted({*known, cells[0].study})
    if earlier.get("request") == request:
        if studies != known:
            atomic_files.write_json(path, earlier := {**earlier, "studies": studies})
        return cast(dict[str, Any], earlier) | {"folder": str(group.folder)}
    started = now()
    model = model_of(cells[0])
    forward = forward_of(cells[0], model)
    scores = {part: _scores(group, forward, part) for part in group.tasks[0].parts()}
    names = [task.name for task in group.tasks]
    measured = Measured(scores["calibration"], scores["heldout"], {name: i for i, name in enumerate(names)})
    router, encoder, predicted = _router(group, forward, scores["calibration"])
    path.unlink(missing_ok=True)  # it describes the router that is now replaced
    files.save_router(group.folder, router, files.model_record(model, cells[0].model))
    numbers = summary(measured, scores.get("reworded"), predicted, names, settings.router.target)
    record = {"request": request, "study": cells[0].study, "studies": studies, **described(group), **numbers}
    record["router"] |= _fitted(router)
    record["prefill"] = _timed(group, model.module, router, encoder)
    record["environment"] = provenance(started, str(model.device))
    atomic_files.write_json(path, record)
    return record | {"folder": str(group.folder)}


def _request(settings: RouterSettings) -> str:
    """The digest of the router's settings and of the files of a hub encoder."""
    plain = dataclasses.asdict(settings)
    return digest([plain, encoder_revision(settings.path)] if settings.encoder == "hub" else plain)


def _scores(group: Group, forward: Forward, part: str) -> dict[str, ItemScores]:
    """The scores of a part of each task under the dense model and all sets; each task is a file."""
    found = {}
    masks = [*group.sets.values()]
    for number, task in enumerate(group.tasks, start=1):
        path = group.folder / "scores" / f"{task.name}-{part}.npz"
        if not path.is_file():
            samples = task.parts()[part]
            log.info(
                "task %d of %d, %s: %d %s items under %d sets",
                *(number, len(group.tasks), task.name, samples.count, part, len(masks)),
            )
            with batches_shown(f"{task.name} {part}") as show:
                scored = score_items(forward.watched(show), samples, [masks[0].dense, *masks])
            files.save_scores(path, scored)
        found[task.name] = files.read_scores(path)
    return found


def _router(
    group: Group, forward: Forward, scores: dict[str, ItemScores]
) -> tuple[FittedRouter, Encoder, dict[str, Floats]]:
    """The router, fitted to the calibration items; its encoder; its predictions for held-out items by task."""
    cell, sets = group.cells[0], group.sets
    blocks = first_blocks(list(sets.values()), group.settings.router.blocks)
    encoder = encoder_of(group.settings.router, forward, loader.tokenizer(cell.model), blocks)
    prompts = {"calibration": [p for task in group.tasks for p in task.calibration_prompts]}
    prompts |= {task.name: list(task.heldout_prompts) for task in group.tasks}
    states = _states(group, encoder, blocks, prompts)
    targets = np.hstack([scores[task.name].target(group.settings.router.target)[1:] for task in group.tasks])
    template = cast(TaskItems, cell.calibration).template
    made, chosen = (blocks, template), group.settings.router
    router = fit_router(sets, states["calibration"], targets, made, chosen, encoder.revision)
    return router, encoder, {task.name: router.head.predict(states[task.name]).T for task in group.tasks}


def _states(group: Group, encoder: Encoder, blocks: int, prompts: dict[str, list[str]]) -> dict[str, Floats]:
    """The features of prompts, by name; kept in a file for each encoder."""
    settings = group.settings.router
    read = [settings.path, encoder.revision] if settings.encoder == "hub" else [blocks]
    key = digest([settings.encoder, *read])
    path = group.folder / f"states-{key}.npz"
    if not path.is_file():
        log.info("reading %d prompts for the router", sum(map(len, prompts.values())))
        files.save_arrays(path, {f"of_{name}": encoder.encode(some) for name, some in prompts.items()})
    return {name.removeprefix("of_"): value for name, value in files.read_arrays(path).items()}


def _timed(group: Group, module: Any, router: FittedRouter, encoder: Encoder) -> dict[str, Any] | None:
    """The seconds of a prefill; None if a smaller model of this kind cannot be made in memory."""
    each = max(1, TIMED // len(group.tasks))
    prompts = [prompt for task in group.tasks for prompt in task.heldout_prompts[:each]]
    log.info("timing the prefill of %d prompts", len(prompts))
    try:
        return dict(prefill(Reader(module, loader.tokenizer(group.cells[0].model), router, encoder), prompts))
    except PruningError as error:
        log.warning("the prefill is not timed: %s", error)
        return None


def _fitted(router: FittedRouter) -> dict[str, Any]:
    """The settings of a router, the blocks that it runs, and the strengths that cross-validation chose."""
    strengths = {"common": router.head.common.strength, "relative": router.head.relative.strength}
    return {"settings": dataclasses.asdict(router.settings), "blocks": router.blocks, "strengths": strengths}

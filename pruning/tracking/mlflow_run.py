"""Write one cell as one MLflow run: parameters, tags, metrics and files, all read from the cell's folder."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pruning.core import study_list, trace
from pruning.core.errors import DamagedError, PruningError
from pruning.core.mask import Mask
from pruning.core.nested import leaves
from pruning.core.result import LOG, MASK, MODELS, NAME, DoneResult, Result, read_result
from pruning.core.space import space_of
from pruning.evaluation.speed import flat
from pruning.healing import curve
from pruning.search.driver import best_so_far
from pruning.search.journal import Journal
from pruning.tracking.mask_picture import DPI, mask_picture
from pruning.tracking.run_names import run_name
from pruning.tracking.store_errors import reason

VERSION = "result_sha256"  # the tag of a complete run; it identifies the result that was recorded
LAYOUT = "2"  # part of this tag: the names and pictures of runs; a change records all runs again


def record_runs(client: Any, experiment: str, folders: Sequence[Path]) -> list[str]:
    """Record cells; returns a sentence for each cell that could not be recorded. The others are.

    If the store itself stops answering, raises its exception at once.
    """
    failures = []
    studies = studies_of(folders)
    for folder in folders:
        try:
            record_run(client, experiment, folder, studies[folder])
        except Exception as error:  # a damaged file, or a value that the store refuses
            client.get_experiment(experiment)  # raises if the store is the cause
            failures.append(f"{folder.name} could not be recorded in MLflow: {reason(error)}.")
    return failures


def raise_failures(failures: Sequence[str]) -> None:
    """Raise PruningError with the sentences of `record_runs`, if there are any."""
    if failures:
        raise PruningError(" ".join([*failures, "All other cells are recorded."]))


def record_run(client: Any, experiment: str, folder: Path, studies: Sequence[str]) -> None:
    """Record a cell as one run and delete its other runs. Do nothing if there is no result or no change.

    `studies` are the names of the studies that ask for the cell.
    """
    from mlflow.entities import Metric, Param, RunTag

    if (result := read_result(folder)) is None:
        return
    version = version_of(folder, studies)
    same = client.search_runs([experiment], f"tags.cell = '{result['cell']}'")
    known = {name: float(value) for name, value, _ in _numbers(result)}
    if any(
        run.data.tags.get(VERSION) == version and known.items() <= run.data.metrics.items() for run in same
    ):
        return
    for run in same:
        client.delete_run(run.info.run_id)
    times = {name: _milliseconds(result["environment"][name]) for name in ("started", "ended")}
    # The tag is given at once: a run without it would not be found again after a kill.
    named = {"run_name": _name(result), "tags": {"cell": result["cell"]}}
    run = client.create_run(experiment, start_time=times["started"], **named)
    tags = [RunTag(name, str(value)) for name, value in _tags(result, studies)]
    params = [Param(name, str(value)[:6000]) for name, value in leaves(result["config"])]
    metrics = [Metric(name, value, times["ended"], step) for name, value, step in _metrics(result, folder)]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one batch
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    _artifacts(client, run.info.run_id, folder, result)
    done = result["status"] == "done"
    client.set_terminated(run.info.run_id, "FINISHED" if done else "FAILED", times["ended"])
    # This tag is set last, so that an interrupted recording is repeated.
    client.set_tag(run.info.run_id, VERSION, version)


def _name(result: Result) -> str:
    k = result["search"]["k"] if result["status"] == "done" else None
    return run_name(result["cell"], result["config"], k)


def _tags(result: Result, studies: Sequence[str]) -> Iterator[tuple[str, Any]]:
    config = result["config"]
    yield from (("cell", result["cell"]), ("sweep", ", ".join(studies) or config["study"]))
    yield from (("model", config["model"]["name"]), ("seed", config["seed"]))
    if result["status"] == "done":
        yield from (("objective", result["calibration"]["objective"]), ("algo", result["search"]["algo"]))
        yield from (
            ("k", result["search"]["k"]),
            ("dropped", f"[{', '.join(map(str, result['mask']['dropped']))}]"),
        )
        if (unit := config.get("unit", "block")) != "block":
            yield "unit", unit
    else:
        yield "error", result["error"]["message"]
    yield "git_commit", result["environment"]["commit"]


def version_of(folder: Path, studies: Sequence[str]) -> str:
    """The digest of what is recorded of a cell: its result, and the studies that ask for it."""
    return hashlib.sha256((folder / NAME).read_bytes() + " ".join([*studies, LAYOUT]).encode()).hexdigest()


def studies_of(folders: Sequence[Path]) -> dict[Path, list[str]]:
    """The names of the studies that ask for each cell; a damaged list counts as empty, `record_studies` names it."""
    asked: dict[Path, list[str]] = {folder: [] for folder in folders}
    for results in dict.fromkeys(folder.parent for folder in folders):
        for name in study_list.names(results):
            for key in dict.fromkeys(_listed(results, name)):
                if (folder := results / key) in asked:
                    asked[folder].append(name)
    return asked


def _listed(results: Path, study: str) -> list[str]:
    try:
        return study_list.read_study(results, study)
    except DamagedError:
        return []


def _metrics(result: Result, folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) for each number of a result, and for the best loss after each evaluation."""
    yield from _numbers(result)
    if result["status"] != "done":
        return
    yield from _healing(result, folder)
    mask = Mask.from_json(result["mask"])
    scores = list(Journal.open(folder / trace.NAME, mask.n_blocks, unit=mask.unit).scores.values())
    for step, best in best_so_far(scores, space_of(mask, result["search"]).complete):
        yield "search/best_loss", best, step


def _numbers(result: Result) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) for each number in a result itself."""
    if result["status"] != "done":
        return
    calibration, search = result["calibration"], result["search"]
    yield "calibration/loss", calibration["loss"], 0
    yield "calibration/dense_loss", calibration["dense_loss"], 0
    if (error := calibration["standard_error"]) is not None:
        yield "calibration/standard_error", error, 0
    yield "search/evaluations_asked", search["evaluations_asked"], 0
    yield "search/evaluations_paid", search["evaluations_paid"], 0
    yield "search/seconds", search["seconds"], 0
    if (margins := result.get("margins")) is not None and margins["runner_up"] is not None:
        yield "margins/runner_up_difference", margins["runner_up"]["difference"], 0
        yield "margins/tied", margins["tied"], 0
    for which in MODELS:
        for name, value in result["evaluation"].get(which, {}).items():
            yield f"{which}/{name}", value, 0
    if (speed := result["evaluation"].get("speed")) is not None:
        yield from ((name, value, 0) for name, value in flat(speed))


def _healing(result: DoneResult, folder: Path) -> Iterator[tuple[str, float, int]]:
    """The curve of a healing; a step is a number of tokens."""
    if (record := result.get("heal")) is None:
        return
    yield "heal/tokens", record["tokens"], 0
    yield "heal/seconds", record["seconds"], 0
    for point in curve.read(folder / record["folder"] / curve.NAME):
        for name in ("loss", "heldout_loss", "lr"):
            if name in point:
                yield f"heal/{name}", cast(Mapping[str, Any], point)[name], point["tokens"]


def _artifacts(client: Any, run: str, folder: Path, result: Result) -> None:
    names: tuple[str, ...] = (NAME, MASK, "config.yaml", trace.NAME, LOG)
    if result["status"] == "done" and "heal" in result:
        names = (*names, f"{result['heal']['folder']}/{curve.NAME}")
    for name in names:
        if _is_own(folder / name):
            client.log_artifact(run, str(folder / name))
    if result["status"] == "done":
        picture = mask_picture(Mask.from_json(result["mask"]), _name(result))
        client.log_figure(run, picture, "mask.png", save_kwargs={"dpi": DPI})
        for place, path in _measurements(folder.parent, result):
            client.log_artifact(run, str(path), place)


def _measurements(results: Path, result: DoneResult) -> Iterator[tuple[str, Path]]:
    """Yield (folder of the run, file) for the files of each measurement of the smaller model.

    These are the record, for a task the output of lm-eval, and for continuations what the model wrote. Those of a
    healed model are in a folder of their own.
    """
    for metric, paths in result["evaluation"].get("records", {}).items():
        for which in ("pruned", "healed"):
            if which in paths:
                place = f"evaluation/{metric.replace('/', '-')}" + ("/healed" if which == "healed" else "")
                record = results / paths[which]
                beside = sorted(record.parent.glob(f"{glob.escape(record.stem)}.*"))
                yield from ((place, path) for path in beside if _is_own(path))


def _is_own(path: Path) -> bool:
    """Whether a path is a file and no link: a link in a copied folder can lead to a private file."""
    return path.is_file() and not path.is_symlink()


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)

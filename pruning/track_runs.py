"""One cell as one MLflow run: parameters, tags, metrics and files, all read from the cell's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pruning import files
from pruning.evaluation.speed import flat
from pruning.mask import Mask
from pruning.nested import leaves
from pruning.scores import Journal
from pruning.solve import best_so_far

VERSION = "result_sha256"  # the tag that says that a run is complete, and of which result


def record(client: Any, experiment: str, folder: Path) -> None:
    """One cell as one run; others of the same cell, of an older result or written while it ran, are deleted."""
    from mlflow.entities import Metric, Param, RunTag

    path = folder / "result.json"
    result = files.read_json(path)
    studies = _studies(folder)
    version = hashlib.sha256(path.read_bytes() + " ".join(studies).encode()).hexdigest()
    same = client.search_runs([experiment], f"tags.cell = '{result['cell']}'")
    if any(run.data.tags.get(VERSION) == version for run in same):
        return
    for run in same:
        client.delete_run(run.info.run_id)
    times = {name: _milliseconds(result["environment"][name]) for name in ("started", "ended")}
    run = client.create_run(experiment, start_time=times["started"], run_name=result["cell"])
    tags = [RunTag(name, str(value)) for name, value in _tags(result, studies)]
    params = [Param(name, str(value)[:6000]) for name, value in leaves(result["config"])]
    metrics = [Metric(name, value, times["ended"], step) for name, value, step in _metrics(result, folder)]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one batch
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    _artifacts(client, run.info.run_id, folder, result)
    done = result["status"] == "done"
    client.set_terminated(run.info.run_id, "FINISHED" if done else "FAILED", times["ended"])
    client.set_tag(run.info.run_id, VERSION, version)  # last: what was broken off is recorded anew


def _tags(result: Mapping[str, Any], studies: Sequence[str]) -> Iterator[tuple[str, Any]]:
    config = result["config"]
    yield from (("cell", result["cell"]), ("sweep", ", ".join(studies) or config["study"]))
    yield from (("model", config["model"]["name"]), ("seed", config["seed"]))
    if result["status"] == "done":
        yield from (("objective", result["calibration"]["objective"]), ("algo", result["search"]["algo"]))
        yield from (("k", result["search"]["k"]), ("dropped", result["mask"]["dropped"]))
    else:
        yield "error", result["error"]["message"]
    yield "git_commit", result["environment"]["commit"]


def _studies(folder: Path) -> list[str]:
    """The studies that ask for a cell."""
    listed = sorted((folder.parent / "studies").glob("*.json"))
    return [path.stem for path in listed if folder.name in files.read_json(path)["cells"]]


def _metrics(result: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, float, int]]:
    """Name, value, step: the numbers of the result, and the best loss after each evaluation."""
    if result["status"] != "done":
        return
    for name in ("loss", "dense_loss", "standard_error"):
        yield f"calibration/{name}", result["calibration"][name], 0
    for name in ("evaluations_asked", "evaluations_paid", "seconds"):
        yield f"search/{name}", result["search"][name], 0
    if (runner_up := result["margins"]["runner_up"]) is not None:
        yield "margins/runner_up_difference", runner_up["difference"], 0
        yield "margins/tied", result["margins"]["tied"], 0
    for which in ("dense", "pruned", "uncompensated"):
        for name, value in result["evaluation"].get(which, {}).items():
            yield f"{which}/{name}", value, 0
    if (speed := result["evaluation"].get("speed")) is not None:
        yield from ((name, value, 0) for name, value in flat(speed))
    mask = Mask.from_json(result["mask"])
    scores = list(Journal.open(folder / "trace.jsonl", mask.n_blocks).scores.values())
    for step, best in best_so_far(scores, len(mask.dropped)):
        yield "search/best_loss", best, step


def _artifacts(client: Any, run: str, folder: Path, result: Mapping[str, Any]) -> None:
    names = ("result.json", "mask.json", "config.yaml", "trace.jsonl", "launch.log")
    for name in names:
        if (folder / name).exists():
            client.log_artifact(run, str(folder / name))
    if result["status"] == "done":
        client.log_figure(run, _picture(Mask.from_json(result["mask"])), "mask.png")
        for metric, path in _measurements(folder.parent, result):
            client.log_artifact(run, str(path), f"evaluation/{metric.replace('/', '-')}")


def _measurements(results: Path, result: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """What is kept of each measurement of the mask: its record and, of a task, lm-eval's results and samples."""
    for metric, places in result["evaluation"].get("records", {}).items():
        record = results / places["pruned"]
        yield from ((metric, path) for path in sorted(record.parent.glob(f"{record.stem}.*")))


def _picture(mask: Mask) -> Any:
    """The mask as a strip of squares, removed blocks filled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.28 * mask.n_blocks + 0.4, 0.8), layout="constrained")
    axes = figure.subplots()
    removed = [[float(i in mask.dropped) for i in range(mask.n_blocks)]]
    axes.pcolormesh(removed, cmap="Greys", vmin=0, vmax=1.2, edgecolors="0.6", linewidth=0.5)
    axes.set(yticks=[], xlabel="block", xticks=[i + 0.5 for i in range(0, mask.n_blocks, 2)])
    axes.set_xticklabels([str(i) for i in range(0, mask.n_blocks, 2)], fontsize=7)
    return figure


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)

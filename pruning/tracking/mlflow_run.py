"""Write one cell as one MLflow run: parameters, tags, metrics and files, all read from the cell's folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pruning.core import records, scoring
from pruning.core.errors import DamagedError
from pruning.core.mask import Mask, space_of
from pruning.core.model_table import ModelRow
from pruning.evaluation.speed import flat
from pruning.search.driver import best_so_far
from pruning.search.journal import Journal
from pruning.tracking.client import reason

VERSION = "result_sha256"  # the tag of a complete run; it identifies the result that was recorded
LAYOUT = "3"  # the version of the runs' layout, in this tag; if it changes, runs are recorded again
BATCH = 800  # metrics in one message; MLflow allows 1000 entries of all kinds
LONGEST = 6000  # MLflow's limit for the text of a parameter
# The numbers of a result that become metrics, besides those of its evaluation and its training.
NUMBERS = [("calibration", name) for name in ("loss", "dense_loss", "standard_error")]
NUMBERS += [("search", name) for name in ("evaluations_asked", "evaluations_paid", "seconds")]
# The columns of the list of runs. The columns that MLflow would choose itself show no numbers.
COLUMNS = ("metrics.`ppl`", "metrics.`acc`", "tags.`dropped`")
VIEW = "columns"  # the name of the experiment's shared view with these columns
# Tags of an experiment: MLflow shows training runs and this description.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run per cell. The tag `cell` names the cell's folder.",
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": COLUMNS}),
}


def record_runs(client: Any, experiment: str, versions: Mapping[Path, str]) -> list[str]:
    """Record the cells whose folders and versions are in `versions`. Returns a sentence for each failure."""
    failures, studies = [], studies_of([*versions])
    for folder, version in versions.items():
        try:
            record_run(client, experiment, folder, studies[folder], version)
        except Exception as error:  # a damaged file, or a value that the store refuses
            client.get_experiment(experiment)  # raises if the store itself has failed
            failures.append(f"{folder.name} could not be recorded in MLflow: {reason(error)}.")
    return failures


def record_run(client: Any, experiment: str, folder: Path, studies: Sequence[str], version: str) -> None:
    """Record a cell as one run; `studies` are the names of the studies that contain the cell."""
    if (result := records.read_result(folder)) is None:
        return
    moments = [datetime.fromisoformat(result["environment"][name]) for name in ("started", "ended")]
    started, ended = (int(1000 * moment.timestamp()) for moment in moments)
    done = result if result["status"] == "done" else None
    files = [records.NAME, records.MASK, "config.yaml", scoring.NAME, records.LOG]
    if done is not None and "heal" in done:
        files.append(f"{done['heal']['folder']}/{records.CURVE}")
    run: dict[str, Any] = {
        "name": run_name(result["cell"], result["config"], done and done["search"]["k"]),
        "tags": {"cell": result["cell"], **dict(_tags(result, studies))},
        "config": result["config"],
        "points": _metrics(result, folder),
        "files": [folder / file for file in files],
    }
    _write(client, experiment, version, started, ended, "FINISHED" if done is not None else "FAILED", **run)


def record_model(client: Any, experiment: str, folder: Path, row: ModelRow) -> None:
    """Record a row of a comparison as one run."""
    numbers: dict[str, float | None] = {**row.metrics, "parameters": row.parameters, "bytes": row.disk}
    numbers |= {"peak_memory": row.memory, "prefill_per_second": row.prefill["median"]}
    numbers |= {"decode_per_second": row.decode["median"]}
    numbers |= {f"bits_per_byte/{name.partition('/')[2]}": bits["value"] for name, bits in row.bits.items()}
    points = [(name, value, 0) for name, value in numbers.items() if value is not None]
    run: dict[str, Any] = {
        "name": f"{row.name} · compared",
        "tags": {"compared": f"{folder.name}/{row.name}", "model": row.name},
        "config": {"place": row.place, "revision": row.revision, "dtype": row.dtype},
        "points": [*points, *summary({"pruned": row.metrics})],
        "files": sorted(folder.iterdir()),
    }
    version, now = hashlib.sha256(f"{row} {LAYOUT}".encode()).hexdigest(), int(1000 * time.time())
    _write(client, experiment, version, now, None, "FINISHED", **run)


def _write(
    client: Any,
    experiment: str,
    version: str,
    started: int,
    ended: int | None,
    status: str,
    *,
    name: str,
    tags: Mapping[str, Any],
    config: Mapping[str, Any],
    points: Iterable[tuple[str, float, int]],
    files: Iterable[Path],
) -> None:
    """Write a run and delete its other versions. If this version is complete already, do nothing.

    The first of the `tags` identifies the run. Times are in milliseconds; a point has a name, a value and a step.
    """
    from mlflow.entities import Metric, Param, RunTag

    first, value = next(iter(tags.items()))
    same = client.search_runs([experiment], f"tags.{first} = '{value}'")
    if any(run.data.tags.get(VERSION) == version for run in same):
        return
    for run in same:
        client.delete_run(run.info.run_id)
    # The run is created with its first tag, because a later command finds an interrupted run by this tag.
    made = client.create_run(experiment, start_time=started, run_name=name, tags={first: value})
    run, when = made.info.run_id, ended or started
    metrics = [Metric(name, value, when, step) for name, value, step in points]
    parameters = [Param(name, str(value)[:LONGEST]) for name, value in records.leaves(config)]
    client.log_batch(run, metrics[:BATCH], parameters, [RunTag(tag, str(text)) for tag, text in tags.items()])
    for start in range(BATCH, len(metrics), BATCH):
        client.log_batch(run, metrics=metrics[start : start + BATCH])
    for path in files:
        if path.is_file() and not path.is_symlink():  # a link in a copied folder can lead to a private file
            client.log_artifact(run, str(path))
    client.set_terminated(run, status, end_time=ended)
    # This tag is set last, so that an interrupted recording is repeated.
    client.set_tag(run, VERSION, version)


def version_of(folder: Path, studies: Sequence[str]) -> str:
    """A digest of what is recorded for a cell: its result, and the studies that contain it."""
    return hashlib.sha256(
        (folder / records.NAME).read_bytes() + " ".join([*studies, LAYOUT]).encode()
    ).hexdigest()


def studies_of(folders: Sequence[Path]) -> dict[Path, list[str]]:
    """The names of the studies that contain each cell. A damaged list counts as empty."""
    asked: dict[Path, list[str]] = {folder: [] for folder in folders}
    for results in dict.fromkeys(folder.parent for folder in folders):
        for name in records.names(results):
            with suppress(DamagedError):
                for key in dict.fromkeys(records.read_study(results, name)):
                    if (folder := results / key) in asked:
                        asked[folder].append(name)
    return asked


def _tags(result: records.Result, studies: Sequence[str]) -> Iterator[tuple[str, Any]]:
    config = result["config"]
    yield "sweep", ", ".join(studies) or config["study"]
    yield from (("model", config["model"]["name"]), ("seed", config["seed"]))
    if result["status"] == "done":
        yield from (("objective", result["calibration"]["objective"]), ("algo", result["search"]["algo"]))
        dropped = ", ".join(map(str, result["mask"]["dropped"]))
        yield from (("k", result["search"]["k"]), ("dropped", f"[{dropped}]"))
        if config["unit"] != "block":
            yield "unit", config["unit"]
    else:
        yield "error", result["error"]["message"]
    yield "git_commit", result["environment"]["commit"]


def _metrics(result: records.Result, folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) for the numbers of a result, and for the best loss after each evaluation."""
    if result["status"] != "done":
        return
    yield from summary(result["evaluation"])
    groups: Mapping[str, Any] = {group: result[group] for group in ("calibration", "search")}
    for group, name in NUMBERS:
        if (value := groups[group][name]) is not None:
            yield f"{group}/{name}", value, 0
    for which in records.MODELS:
        for name, value in result["evaluation"].get(which, {}).items():
            yield f"{which}/{name}", value, 0
    if (speed := result["evaluation"].get("speed")) is not None:
        yield from ((name, value, 0) for name, value in flat(speed))
    if (record := result.get("heal")) is not None:  # the training curve; a step is a number of tokens
        yield "heal/tokens", record["tokens"], 0
        yield "heal/seconds", record["seconds"], 0
        for point in records.read(folder / record["folder"] / records.CURVE):
            numbers: Mapping[str, Any] = point
            for name in ("loss", "heldout_loss", "lr"):
                if name in numbers:
                    yield f"heal/{name}", numbers[name], point["tokens"]
    mask = Mask.from_json(result["mask"])
    scores = list(Journal.open(folder / scoring.NAME, mask.n_blocks, unit=mask.unit).scores.values())
    for step, best in best_so_far(scores, space_of(mask, result["search"]).complete):
        yield "search/best_loss", best, step


# The name of a run, for people to read, and the numbers beside it in the list of runs


def run_name(cell: str, config: Mapping[str, Any], k: int | None = None) -> str:
    """The name of a cell's run, such as `k=6 · greedy · perplexity · smollm2 · seed 0`."""
    if cell.count("-") < 5:
        return cell
    model, objective, algo, size, seed, _ = cell.rsplit("-", 5)
    unit, budget = config["unit"], config["budget"]
    size = f"{'k' if size[0] == 'k' else 'ratio'}={size[1:]}"
    if (unit, budget) == ("block", "parameters") and k is not None:
        size = f"k={k}"
    size += f" {unit}" * (unit != "block") + f" of {budget}" * (budget != "parameters")
    return " · ".join((size, algo, objective, model, f"seed {seed[1:]}"))  # MLflow cuts long names


def summary(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield `ppl` and `acc` of a cell's last model: its first perplexity and its mean accuracy, both rounded."""
    measured = evaluation.get("healed") or evaluation.get("pruned", {})
    for kind, decimals in (("ppl", 2), ("acc", 3)):
        values = [measured[name] for name in records.metrics_among(measured) if records.kind_of(name) == kind]
        if values:
            yield kind, round(values[0] if kind == "ppl" else sum(values) / len(values), decimals), 0

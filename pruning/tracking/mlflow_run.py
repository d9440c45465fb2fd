"""Write one cell as one MLflow run: parameters, tags, metrics and files, all read from the cell's folder."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, cast

from pruning.core import records, scoring
from pruning.core.errors import DamagedError, PruningError
from pruning.core.mask import Mask, space_of, unit_noun
from pruning.core.records import LOG, MASK, MODELS, NAME, DoneResult, Result, leaves, read_result
from pruning.core.storage import read_json
from pruning.evaluation.speed import flat
from pruning.search.driver import best_so_far
from pruning.search.journal import Journal
from pruning.tracking.client import reason

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
        for name in records.names(results):
            for key in dict.fromkeys(_listed(results, name)):
                if (folder := results / key) in asked:
                    asked[folder].append(name)
    return asked


def _listed(results: Path, study: str) -> list[str]:
    try:
        return records.read_study(results, study)
    except DamagedError:
        return []


def _metrics(result: Result, folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step) for each number of a result, and for the best loss after each evaluation."""
    yield from _numbers(result)
    if result["status"] != "done":
        return
    yield from _healing(result, folder)
    mask = Mask.from_json(result["mask"])
    scores = list(Journal.open(folder / scoring.NAME, mask.n_blocks, unit=mask.unit).scores.values())
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
    for point in records.read(folder / record["folder"] / records.CURVE):
        for name in ("loss", "heldout_loss", "lr"):
            if name in point:
                yield f"heal/{name}", cast(Mapping[str, Any], point)[name], point["tokens"]


def _artifacts(client: Any, run: str, folder: Path, result: Result) -> None:
    names: tuple[str, ...] = (NAME, MASK, "config.yaml", scoring.NAME, LOG)
    if result["status"] == "done" and "heal" in result:
        names = (*names, f"{result['heal']['folder']}/{records.CURVE}")
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


# The picture of a mask among the files of its run.

WIDTH = 12.0  # inches
DPI = 100  # pixels per inch, given when the picture is saved: the style of the figures changes the default
ROW = 40  # blocks in a row at most
REMOVED, KEPT = "#b2182b", "#e8eef4"


def mask_picture(mask: Mask, title: str) -> Any:
    """A matplotlib figure, 1200 pixels wide at `DPI`: all units with their names, the removed ones filled.

    Sub-layers are in two lines for each row of blocks: attention above, MLPs below.
    """
    from matplotlib.figure import Figure

    parts = mask.n_units // mask.n_blocks
    rows = math.ceil(mask.n_blocks / ROW)
    columns = math.ceil(mask.n_blocks / rows)
    boxes = 0.5 * rows * parts
    figure = Figure(figsize=(WIDTH, 0.85 + boxes))
    axes = figure.add_axes((0.01, 0.02, 0.98, boxes / (0.85 + boxes)))
    axes.set(xlim=(0, columns), ylim=(rows * parts, 0))
    axes.axis("off")
    for unit in range(mask.n_units):
        block, part = divmod(unit, parts)
        row, column = divmod(block, columns)
        name = str(block) if parts == 1 else f"{'am'[part]}{block}"
        _box(axes, column, row * parts + part, name, unit in mask.dropped, parts)
    figure.text(0.012, 0.98, title, fontsize=13, weight="bold", va="top")
    figure.text(0.012, 1 - 0.40 / (0.85 + boxes), _sentence(mask), fontsize=11, color=REMOVED, va="top")
    return figure


def _box(axes: Any, column: int, line: int, name: str, out: bool, parts: int) -> None:
    """Draw a unit. The two sub-layers of a block touch, and a gap divides rows of blocks."""
    from matplotlib.patches import Rectangle

    top, middle = (0.08, 0.5) if parts == 1 else (0.14, 0.56) if line % 2 == 0 else (0.02, 0.44)
    box = Rectangle((column + 0.04, line + top), 0.92, 0.84, facecolor=REMOVED if out else KEPT)
    axes.add_patch(box)
    colour, weight = ("white", "bold") if out else ("#33475b", "normal")
    size = 11 if parts == 1 else 9
    number = axes.text(column + 0.5, line + middle, name, color=colour, weight=weight, fontsize=size)
    number.set(ha="center", va="center")


def _sentence(mask: Mask) -> str:
    """What the mask removes, in words."""
    names = mask.names()
    if not names:
        units = unit_noun(mask.unit)
        return f"no {units} of {mask.n_units} is removed"
    return f"{mask} removed: {', '.join(names) if len(names) <= ROW else 'in red below'}"


# The name by which a person knows a run: what was searched, not a digest.

_KEY = re.compile(r"(?P<names>.+-.+-.+)-(?P<size>[kr])(?P<value>[0-9.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]+")
_SIZES = {"k": "k", "r": "ratio"}
_UNITS = {"block": "blocks", "sublayer": "sub-layers", "attention": "attention", "mlp": "MLPs"}


def run_name(cell: str, config: Mapping[str, Any], k: int | None = None) -> str:
    """The name of a cell's run, such as `smollm2 · perplexity · greedy · k=6 · seed 0 · 8 of pydoc`.

    The end says how many samples of which data the loss was measured on. `k` replaces a ratio if it is known. A key
    of another form is its own name. If anything but k whole blocks is removed, the name says what: `6 sub-layers`, or
    `sub-layers, 20 % of parameters`. Cells that differ in other settings have equal names; the tag `cell` holds the
    key, which differs.
    """
    if (key := _KEY.fullmatch(cell)) is None:
        return cell
    model, objective, algo = key["names"].rsplit("-", 2)
    size = _removed(key, config) or (f"k={k}" if k is not None else f"{_SIZES[key['size']]}={key['value']}")
    return " · ".join((model, objective, algo, size, f"seed {key['seed']}", *_data(config)))


def _removed(key: re.Match[str], config: Mapping[str, Any]) -> str:
    """What is removed; empty for whole blocks that are counted."""
    unit, budget = config.get("unit", "block"), config.get("budget", "parameters")
    if (unit, budget) == ("block", "parameters"):
        return ""
    if key["size"] == "r":
        return f"{_UNITS.get(unit, unit)}, {100 * float(key['value']):g} % of {budget}"
    kind = {"attention": "attention ", "mlp": "MLP "}.get(unit, "")
    return f"{key['value']} {kind}sub-layer{'' if key['value'] == '1' else 's'}"


def _data(config: Mapping[str, Any]) -> Iterator[str]:
    """The number of samples and the name of their source, if the configuration has them."""
    data = config.get("calibration") or {}
    if data.get("source") and data.get("samples"):
        yield f"{data['samples']} of {PurePath(str(data['source'])).name}"


# Set how MLflow's pages show the experiment: as training runs, with the columns that matter first.
#
# MLflow 3.17 opens an experiment in its GenAI view, unless the address or the browser's own setting asks for model
# training. It does not read the tag of the experiment's kind; other versions do, so the tag is set nevertheless. A
# view with chosen columns is a tag too. The view needs an address of its own, which `address` returns.

KIND = ("mlflow.experimentKind", "custom_model_development")
VIEW = "cells"  # the key of the view
VIEWED, NOTED = (
    f"mlflow.sharedViewState.{VIEW}",
    "mlflow.note.content",
)  # the tags of the view and of the note
TITLE = "Cells: what was removed and what it cost"
NOTE = (
    "One run per cell. Choose **Model training** at the top left, then under *Views* the view "
    f"**{TITLE}**. The tag `cell` names the cell's folder."
)
MOST = 4  # measurements that become columns
VIEW_KEY = "attributes.`Run Name`"
ALWAYS = ("runDateAndNestInfo", "duration")  # columns that MLflow always shows; here they come last
WIDTHS = {VIEW_KEY: 430, "tags.`dropped`": 180, "runDateAndNestInfo": 150, "duration": 90}  # pixels


def show_as_training_runs(client: Any, experiment: str) -> None:
    """Set the kind, the description and the columns of an experiment, new or old, unless they are set already."""
    known = client.get_experiment(experiment).tags
    latest = client.search_runs([experiment], "tags.dropped != ''", max_results=20)
    columns = _columns(name for run in latest for name in run.data.metrics)
    wanted = {KIND[0]: KIND[1], VIEWED: _view(columns)}
    if NOTED not in known:  # a person may have written another one
        wanted[NOTED] = NOTE
    for tag, value in wanted.items():
        if known.get(tag) != value:
            client.set_experiment_tag(experiment, tag, value)


def address(server: str, experiment: str) -> str:
    """The address of the page that shows the runs with these columns."""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _columns(recorded: Iterable[str]) -> list[str]:
    """The columns in order: the blocks, the loss, what the smaller model does, the dense model, the cost."""
    measured = sorted({name.partition("/")[2] for name in recorded if _is_measurement(name)}, key=_rank)[
        :MOST
    ]
    metrics = ["calibration/loss", *(f"pruned/{name}" for name in measured)]
    metrics += ["calibration/dense_loss", *(f"dense/{name}" for name in measured)]
    metrics += ["search/evaluations_paid", "search/seconds"]
    return ["tags.`dropped`", *(f"metrics.`{name}`" for name in metrics)]


def _is_measurement(name: str) -> bool:
    return name.startswith("pruned/") and not name.endswith("/stderr")


def _rank(name: str) -> tuple[bool, bool, str]:
    """Perplexity first, then the mean accuracy, then the others."""
    return (not name.startswith("ppl/"), not name.endswith("/mean"), name)


def _view(columns: list[str]) -> str:
    """The view as MLflow stores it: a name, two times, and the state of the table as text."""
    order = [VIEW_KEY, *columns, *ALWAYS]
    widths = {column: WIDTHS.get(column, max(100, 7 * len(column) - 50)) for column in order}
    state = {"selectedColumns": columns, "columnOrder": order, "columnWidths": widths}
    return json.dumps({"name": TITLE, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


# Write the table of published masks as one MLflow run: a metric for each measurement, and the files.

TAG = "table"  # the tag of such a run; the runs of cells have the tag `cell`
TABLES = "published"  # the folder of the table in a results folder
FILES = ("table.json", "table.csv")


def record_table(client: Any, experiment: str, folder: Path) -> None:
    """Record the table in `folder` as one run and delete the run of an earlier table of the same folder."""
    from mlflow.entities import Metric, Param, RunTag

    data = read_json(folder / FILES[0])
    earlier = client.search_runs([experiment], f"tags.{TAG} = 'published'")
    for run in earlier:
        if run.data.tags.get("folder") == str(folder):
            client.delete_run(run.info.run_id)
    run = client.create_run(
        experiment, run_name="published masks", tags={TAG: "published", "folder": str(folder)}
    )
    ended = run.info.start_time
    params = [Param("tolerance", str(data["tolerance"])), Param("rows", str(len(data["rows"])))]
    metrics = [Metric(name, value, ended, 0) for name, value in _table_metrics(data["rows"])]
    tags = [RunTag(f"verdict {name}", str(count)) for name, count in _verdicts(data["rows"]).items()]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one batch
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    for name in FILES:
        client.log_artifact(run.info.run_id, str(folder / name))
    client.set_terminated(run.info.run_id, "FINISHED")


def _table_metrics(rows: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The numbers of each row. A name in MLflow has no characters but letters, digits and a few signs."""
    for row in rows:
        for kind in ("published", "one", "own"):
            if row[kind] is not None:
                yield re.sub(r"[^\w./ -]", "_", f"{row['mask']}/{row['text']}/{kind}"), float(row[kind])


def _verdicts(rows: list[Mapping[str, Any]]) -> dict[str, int]:
    names = [str(row["verdict"]) for row in rows]
    return {name: names.count(name) for name in dict.fromkeys(names)}

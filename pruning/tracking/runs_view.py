"""Set how MLflow's pages show the experiment: as training runs, with the columns that matter first.

MLflow 3.17 opens an experiment in its GenAI view, unless the address or the browser's own setting asks for model
training. It does not read the tag of the experiment's kind; other versions do, so the tag is set nevertheless. A view
with chosen columns is a tag too. The view needs an address of its own, which `address` returns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

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
NAME = "attributes.`Run Name`"
ALWAYS = ("runDateAndNestInfo", "duration")  # columns that MLflow always shows; here they come last
WIDTHS = {NAME: 430, "tags.`dropped`": 180, "runDateAndNestInfo": 150, "duration": 90}  # pixels


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
    order = [NAME, *columns, *ALWAYS]
    widths = {column: WIDTHS.get(column, max(100, 7 * len(column) - 50)) for column in order}
    state = {"selectedColumns": columns, "columnOrder": order, "columnWidths": widths}
    return json.dumps({"name": TITLE, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})

"""Read MLflow runs, to compare those that were written in different ways."""

from __future__ import annotations

from typing import Any

from pruning.tracking.client import connect


def runs(uri: str) -> dict[str, Any]:
    """The runs in a store, by cell; empty if there is no experiment yet."""
    client = connect(uri)
    if (experiment := client.get_experiment_by_name("depth-pruning")) is None:
        return {}
    found = client.search_runs([experiment.experiment_id])
    by_cell = {run.data.tags["cell"]: run for run in found}
    assert len(by_cell) == len(found), "a cell has two runs"
    return by_cell


def described(uri: str, run: Any) -> dict[str, Any]:
    """The tags, parameters, metrics, files and state of a run, without those that depend on places and times."""
    client, data = connect(uri), run.data
    histories = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in data.metrics
        if name != "search/seconds"
    }
    return {
        "tags": {name: value for name, value in data.tags.items() if name != "result_sha256"},
        "parameters": {n: v for n, v in data.params.items() if not n.startswith(("tracker.", "paths."))},
        "metrics": histories,
        "files": sorted(artifact.path for artifact in client.list_artifacts(run.info.run_id)),
        "ended": (run.info.status, run.info.start_time is None, run.info.end_time is None),
    }

"""On an MLflow server, close the runs of cells that are no longer being computed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pruning.core.errors import PruningError
from pruning.core.result import NAME
from pruning.launcher.cell_state import cell_states
from pruning.launcher.local_process import process
from pruning.tracking.live_run import LIVE

log = logging.getLogger(__name__)


def close_dead_runs(client: Any, experiment: str, results: Path) -> None:
    """Close a results folder's live runs if their cells are no longer being computed; keep runs of other folders."""
    running = f"tags.{LIVE} = 'true' and attributes.status = 'RUNNING'"
    live = client.search_runs([experiment], running, max_results=50_000)
    runs = [run for run in live if run.data.tags.get("results") == str(results)]
    if not runs:
        return
    try:
        cells = cell_states(results, [run.data.tags["cell"] for run in runs])
    except PruningError as error:
        log.warning("runs of dead jobs are not closed: %s", error)
        return
    for run in runs:
        job, cell = run.data.tags["job"], cells.get(run.data.tags["cell"])
        alive = cell.state.in_flight if cell is not None else False
        if alive or (job.startswith("process-") and process(job).active):
            continue
        # If the cell has a result, another run holds that result, and a late message created this run: delete it.
        if (results / run.data.tags["cell"] / NAME).exists():
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, "KILLED")

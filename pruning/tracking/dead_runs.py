"""End the runs of an MLflow server whose cells nobody runs any more."""

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
    """End the runs of cells of a results folder that nobody runs any more."""
    running = f"tags.{LIVE} = 'true' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment], running, max_results=50_000)
    mine = [run for run in found if run.data.tags.get("results") == str(results)]
    if not mine:
        return
    try:
        known = cell_states(results, [run.data.tags["cell"] for run in mine])
    except PruningError as error:
        log.warning("runs of dead jobs are left as they are: %s", error)
        return
    for run in mine:
        job, standing = run.data.tags["job"], known.get(run.data.tags["cell"])
        alive = standing.state.in_flight if standing is not None else False
        if alive or (job.startswith("process-") and process(job).active):
            continue
        if (results / run.data.tags["cell"] / NAME).exists():  # a message that came late
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, "KILLED")

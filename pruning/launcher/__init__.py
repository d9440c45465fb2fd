"""Launchers: run the cells of a command in this process, in processes beside it, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` chooses a launcher: `local.py` has that of processes, `slurm.py` that of a cluster. Both run
`job.py`. For a cluster, `submission.py` has the record of what was submitted, which is written before anything is
started; `scheduler.py` asks SLURM; `cell_state.py` combines both with a cell's own files, waits and cancels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. It has no settings."""

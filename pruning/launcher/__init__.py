"""Launchers: run the cells of a command in this process, in child processes, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` configures a launcher: `local.py` has the one for child processes, `slurm.py` the one for a
cluster. Both run `job.py`. For a cluster, `submission.py` records what is submitted before anything is started, and
`scheduler.py` asks SLURM; `cell_state.py` combines both with a cell's own files, waits and cancels.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. This launcher has no settings."""

"""Launchers: run the cells of a command in this process, in child processes, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` configures launchers. `local.py` starts child processes, and `slurm.py` submits jobs;
each process or job runs `job.py`. `submission.py` records submissions, and `scheduler.py` asks SLURM about jobs.
`cell_state.py` finds a cell's state from records, SLURM and the cell's files. It also waits for and cancels cells.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. This launcher has no settings."""

"""Launchers: run the cells of a command in this process, in child processes, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` configures launchers. `local.py` starts child processes, and `slurm.py` submits jobs;
both run `job.py`. `submission.py` records submissions, and `scheduler.py` asks SLURM. `cell_state.py`
finds a cell's state from the records, SLURM's answers and the cell's files; it also waits and cancels.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. This launcher has no settings."""

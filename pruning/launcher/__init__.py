"""Launchers: run the cells of a command in this process, in child processes, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` configures launchers. `local.py` starts child processes, and `slurm.py` submits jobs;
both run `job.py`. `submission.py` records submissions, and `scheduler.py` asks SLURM. From these and a cell's
files, `cell_state.py` finds the cell's state; it also waits for cells and cancels them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. This launcher has no settings."""

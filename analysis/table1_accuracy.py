"""The command `python -m analysis.table1_accuracy`; see `analysis/figures/table1_accuracy.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.table1_accuracy:main")

"""The command `python -m analysis.fig7_cost`; see `analysis/figures/fig7_cost.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig7_cost:main")

"""The command `python -m analysis.fig2_ranks`; see `analysis/figures/fig2_ranks.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig2_ranks:main")

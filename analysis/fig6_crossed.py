"""The command `python -m analysis.fig6_crossed`; see `analysis/figures/fig6_crossed.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig6_crossed:main")

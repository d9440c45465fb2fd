"""The command `python -m analysis.fig4_overlap`; see `analysis/figures/fig4_overlap.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig4_overlap:main")

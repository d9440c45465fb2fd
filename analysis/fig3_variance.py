"""The command `python -m analysis.fig3_variance`; see `analysis/figures/fig3_variance.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig3_variance:main")

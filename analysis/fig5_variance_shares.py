"""The command `python -m analysis.fig5_variance_shares`; see `analysis/figures/fig5_variance_shares.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig5_variance_shares:main")

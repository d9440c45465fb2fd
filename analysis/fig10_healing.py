"""The command `python -m analysis.fig10_healing`; see `analysis/figures/fig10_healing.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig10_healing:main")

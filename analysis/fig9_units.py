"""The command `python -m analysis.fig9_units`; see `analysis/figures/fig9_units.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig9_units:main")

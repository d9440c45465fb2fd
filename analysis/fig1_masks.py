"""The command `python -m analysis.fig1_masks`; see `analysis/figures/fig1_masks.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig1_masks:main")

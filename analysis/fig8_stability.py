"""The command `python -m analysis.fig8_stability`; see `analysis/figures/fig8_stability.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.fig8_stability:main")

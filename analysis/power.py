"""The command `python -m analysis.power`; see `analysis/figures/power.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.power:main")

"""The command `python -m analysis.table3_search`; see `analysis/figures/table3_search.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.table3_search:main")

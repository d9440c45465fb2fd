"""The command `python -m analysis.table2_perplexity`; see `analysis/figures/table2_perplexity.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.figures.table2_perplexity:main")

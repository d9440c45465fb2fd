"""The command `python -m analysis.paper_check`; see `analysis/paper/check.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.paper.check:main")

"""The command `python -m analysis.archive`; see `analysis/data/archive.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.data.archive:main")

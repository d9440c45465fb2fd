"""The command `python -m analysis.report`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command(f"{__package__}.page:main")

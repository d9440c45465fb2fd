"""The command `python -m pruning.export`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.export.pipeline:main")

"""The command `python -m pruning.ui`; see `pruning/tracking/rebuild.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.tracking.rebuild:browse")

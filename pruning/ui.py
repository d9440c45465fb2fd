"""The command `python -m pruning.ui`; see `pruning/tracking/browse.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command("pruning.tracking.browse:main")

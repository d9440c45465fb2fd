"""The command `python -m pruning.packaged`; see `pruning/models/packaged.py`."""

from pruning.core.command import run_command

if __name__ == "__main__":
    run_command("pruning.models.packaged:main")

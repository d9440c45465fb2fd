"""The command `python -m pruning.packaged`; see `pruning/models/directory.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.models.directory:main")

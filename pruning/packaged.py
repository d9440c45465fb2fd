"""The command `python -m pruning.packaged`; see `pruning/models/kept_models.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.models.kept_models:main")

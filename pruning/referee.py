"""The command `python -m pruning.referee`; see `pruning/study/referee_command.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.study.referee_command:main")

"""The command `python -m pruning.heal`; see `pruning/study/heal_command.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.study.heal_command:main")

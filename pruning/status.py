"""The command `python -m pruning.status`; see `pruning/study/status.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.study.status:main")

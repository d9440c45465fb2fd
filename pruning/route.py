"""The command `python -m pruning.route`; see `pruning/study/route_command.py`."""

from pruning.core.terminal import run_command

if __name__ == "__main__":
    run_command("pruning.study.route_command:main")

"""The command `python -m pruning.status`; see `pruning/study/status.py`."""

from pruning.study.status import main

if __name__ == "__main__":
    main()

"""The command `python -m pruning.ui`; see `pruning/tracking/browse.py`."""

from pruning.tracking.browse import main

if __name__ == "__main__":
    main()

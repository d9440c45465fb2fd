"""The command `python -m pruning.track`; see `pruning/tracking/rebuild.py`."""

from pruning.tracking.rebuild import main

if __name__ == "__main__":
    main()

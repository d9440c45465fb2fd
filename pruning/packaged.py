"""The command `python -m pruning.packaged`; see `pruning/models/packaged.py`."""

from pruning.models.packaged import main

if __name__ == "__main__":
    main()
